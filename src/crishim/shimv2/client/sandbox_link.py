"""The connection to a shim that serves the Sandbox service: its sandbox is no task, but looks like one on this side.

The calls for the sandbox's id become those of the service, so that records, resumption, cleanup and pods are the same for both
kinds of shims.
"""

from pathlib import Path
from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from crishim._proto import shim_sandbox_pb2 as pb
from crishim._proto import shim_task_pb2 as task_pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.cri.convert.sandbox_config import encode_config
from crishim.errors import Internal, InvalidArgument, NotFound, Unimplemented
from crishim.model.process import Exit
from crishim.model.sandbox import SandboxSpec
from crishim.shimv2.client.connection import ShimLink
from crishim.shimv2.client.fifos import FifoPaths
from crishim.shimv2.wire.messages import SANDBOX_SERVICE, exit_of, packed

R = TypeVar("R", bound=Message)

_READY: Final = "SANDBOX_READY"
_STOP_TIMEOUT: Final = 10
"""Seconds within which StopSandbox must end a sandbox."""


def sandbox_request(spec: SandboxSpec) -> pb.CreateSandboxRequest:
    """The request that gives a pod to its shim, without the bundle."""
    config = packed("runtime.v1.PodSandboxConfig", encode_config(spec.config))
    return pb.CreateSandboxRequest(sandbox_id=spec.id, options=config, netns_path=spec.netns)


async def offered(link: ShimLink, request: pb.CreateSandboxRequest | None) -> ShimLink:
    """The same connection, with the Sandbox service for a pod that is to be created, if the shim serves it."""
    if request is None:
        return link
    service = SandboxLink(link, request.sandbox_id, request)
    return service if await service.is_served() else link


class SandboxLink(ShimLink):
    """A ShimLink for a shim's own sandbox; `request` is that of its creation, if it is not created yet."""

    def __init__(self, link: ShimLink, sandbox_id: str, request: pb.CreateSandboxRequest | None = None) -> None:
        super().__init__(*link.parts)
        self._id = sandbox_id
        self._request = request

    async def is_served(self) -> bool:
        """Whether the shim serves the Sandbox service. Any other answers UNIMPLEMENTED to its methods, or INVALID_ARGUMENT if
        it is built on ttrpc-rust. Raises what a call raises that does not tell, as `DeadlineExceeded`.
        """
        try:
            await self._sandbox("PingSandbox", pb.PingRequest(sandbox_id=self._id), pb.PingResponse)
        except NotFound:
            return True
        except (Unimplemented, InvalidArgument):
            return False
        return True

    async def create(self, name: str, bundle: Path, fifos: FifoPaths, options: Any | None, *, terminal: bool) -> int:
        """As `ShimLink.create`. The sandbox is started at once, since its pid is known only then."""
        if name != self._id:
            return await super().create(name, bundle, fifos, options, terminal=terminal)
        if self._request is None:
            raise Internal(f"sandbox {name} is created already")
        self._request.bundle_path = str(bundle)
        await self._sandbox("CreateSandbox", self._request, pb.CreateSandboxResponse, self.long_timeout)
        start = pb.StartSandboxRequest(sandbox_id=name)
        return (await self._sandbox("StartSandbox", start, pb.StartSandboxResponse, self.long_timeout)).pid

    async def start(self, name: str, exec_id: str = "") -> int:
        """As `ShimLink.start`; a sandbox was started by its creation."""
        return 0 if name == self._id else await super().start(name, exec_id)

    async def wait(self, name: str, exec_id: str = "") -> Exit:
        """As `ShimLink.wait`."""
        if name != self._id:
            return await super().wait(name, exec_id)
        response = await self._sandbox("WaitSandbox", pb.WaitSandboxRequest(sandbox_id=name), pb.WaitSandboxResponse, 0)
        return exit_of(response.exit_status, response.exited_at)

    async def state(self, name: str, exec_id: str = "") -> task_pb.StateResponse:
        """As `ShimLink.state`. A sandbox that is not ready has ended, since `create` starts it."""
        if name != self._id:
            return await super().state(name, exec_id)
        request = pb.SandboxStatusRequest(sandbox_id=name)
        response = await self._sandbox("SandboxStatus", request, pb.SandboxStatusResponse)
        status = types_pb.RUNNING if response.state == _READY else types_pb.STOPPED
        return task_pb.StateResponse(id=name, pid=response.pid, status=status, exited_at=response.exited_at)

    async def kill(self, name: str, number: int, exec_id: str = "", *, everyone: bool = False) -> None:
        """As `ShimLink.kill`; a sandbox is stopped, whatever the signal."""
        if name != self._id:
            await super().kill(name, number, exec_id, everyone=everyone)
            return
        request = pb.StopSandboxRequest(sandbox_id=name, timeout_secs=_STOP_TIMEOUT)
        await self._sandbox("StopSandbox", request, pb.StopSandboxResponse)

    async def delete(self, name: str, exec_id: str = "") -> None:
        """As `ShimLink.delete`; a sandbox is shut down, and its shim may end."""
        if name != self._id:
            await super().delete(name, exec_id)
            return
        await self._sandbox("ShutdownSandbox", pb.ShutdownSandboxRequest(sandbox_id=name), pb.ShutdownSandboxResponse)

    async def stats(self, name: str) -> Any:
        """As `ShimLink.stats`; a sandbox's are those of its pod."""
        if name != self._id:
            return await super().stats(name)
        request = pb.SandboxMetricsRequest(sandbox_id=name)
        return (await self._sandbox("SandboxMetrics", request, pb.SandboxMetricsResponse)).metrics.data

    async def _sandbox(self, method: str, request: Message, response: type[R], timeout: float | None = None) -> R:
        return await self._call(method, request, response, timeout, service=SANDBOX_SERVICE)
