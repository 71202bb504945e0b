"""A small controller: keeps one container running at a CRI endpoint, and restarts it with growing pauses.

It uses only CRI's messages and a clock of crishim. `Cri` sends a request message and returns the response: over a socket
(`over_socket`), or in tests by crishim's `Dispatcher`.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import grpc.aio

from crishim.cri import pb

Cri = Callable[[Any], Awaitable[Any]]

CALL_TIMEOUT = 10.0  # seconds for one call
PERIOD = 1.0  # seconds between two polls of the container
LONGEST = 60.0  # seconds, the longest pause


class Clock(Protocol):
    async def sleep(self, seconds: float) -> None: ...


class WallClock:
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Keeper:
    """`report` is called with a line for each event."""

    def __init__(self, cri: Cri, clock: Clock, report: Callable[[str], None]) -> None:
        self._cri, self._clock, self._report = cri, clock, report

    async def keep(self, image: str, command: list[str]) -> None:
        """Keep it running until cancelled, or until an image or a program turns out to be invalid."""
        pod = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="keeper", namespace="default", uid="keeper"))
        sandbox = await self._insist(pb.RunPodSandboxRequest(config=pod))
        pause = 1.0
        attempt = 0
        while True:
            config = pb.ContainerConfig(
                metadata=pb.ContainerMetadata(name="main", attempt=attempt),
                image=pb.ImageSpec(image=image),
                command=command,
            )
            request = pb.CreateContainerRequest(pod_sandbox_id=sandbox.pod_sandbox_id, config=config, sandbox_config=pod)
            container_id = (await self._insist(request)).container_id
            await self._insist(pb.StartContainerRequest(container_id=container_id))
            self._report("started")
            status = await self._end_of(container_id)
            self._report(f"ended {status.exit_code} {status.reason}")
            await self._insist(pb.RemoveContainerRequest(container_id=container_id))
            pause = 1.0 if status.exit_code == 0 else min(2 * pause, LONGEST)
            self._report(f"pause {pause:g}")
            await self._clock.sleep(pause)
            attempt += 1

    async def _end_of(self, container_id: str) -> Any:
        while True:
            await self._clock.sleep(PERIOD)
            status = (await self._insist(pb.ContainerStatusRequest(container_id=container_id))).status
            if status.state == pb.CONTAINER_EXITED:
                return status

    async def _insist(self, request: Any) -> Any:
        """The response; retried while the runtime is unavailable or does not respond."""
        while True:
            call = asyncio.ensure_future(self._cri(request))
            limit = asyncio.ensure_future(self._clock.sleep(CALL_TIMEOUT))
            try:
                await asyncio.wait({call, limit}, return_when=asyncio.FIRST_COMPLETED)
                if call.done():
                    return call.result()
                self._report("no answer")
            except Exception as error:
                if code_of(error) != grpc.StatusCode.UNAVAILABLE.value[0]:
                    raise
                self._report("away")
                await self._clock.sleep(PERIOD)
            finally:
                call.cancel()
                limit.cancel()
                await asyncio.wait({call, limit})


def code_of(error: Any) -> int:
    """The gRPC code of an error, from a socket or from the dispatcher."""
    code = error.code() if callable(getattr(error, "code", None)) else getattr(error, "code", grpc.StatusCode.UNKNOWN)
    return int(code.value[0] if isinstance(code, grpc.StatusCode) else code)


def over_socket(channel: grpc.aio.Channel) -> Cri:
    """CRI over gRPC: the name of the request's message is the name of the call."""
    service = pb.DESCRIPTOR.services_by_name["RuntimeService"]

    async def cri(request: Any) -> Any:
        method = request.DESCRIPTOR.name.removesuffix("Request")
        reply = getattr(pb, service.methods_by_name[method].output_type.name)
        call = channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return await call(request)

    return cri


def main() -> None:
    """Run as `keeper SOCKET IMAGE COMMAND...`."""
    socket, image, *command = sys.argv[1:]

    async def run() -> None:
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            await Keeper(over_socket(channel), WallClock(), print).keep(image, command)

    asyncio.run(run())
