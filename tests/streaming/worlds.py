"""A served world in one line."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs

from crishim.interfaces.backend import Backend
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.seats import Clock
from crishim.model.process import AttachRequest, ExecRequest, ExecSpec, Exit, PortForwardRequest
from crishim.model.values import ContainerId, SandboxId
from crishim.streaming.connection import StreamConnection
from crishim.streaming.server import StreamConfig, StreamServer
from crishim.testing import FakeBackend, Harness


def exited(code: int) -> dict[str, Any]:
    """The status of a command that failed."""
    return {
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def broken(message: str) -> dict[str, Any]:
    """The status of a command that could not be run."""
    return {
        "status": "Failure",
        "message": f"Internal error occurred: {message}",
        "reason": "InternalError",
        "code": 500,
        "details": {"causes": [{"message": message}]},
    }


class Scripted(FakeBackend):
    """Records the arguments of each exec, and waits for `go` before it ends with the scripted exit."""

    def __init__(self) -> None:
        super().__init__(logs_to_disk=False)
        self.go = asyncio.Event()
        self.end: Exit | Exception = Exit(code=0)
        self.io: ProcessIO
        self.spec: ExecSpec
        self.started = asyncio.Event()
        self.killed = False

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        self.io, self.spec = io, spec
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.killed = True
            raise
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


SUCCESS = {"status": "Success"}


@attrs.frozen
class World:
    """A streaming server over a harness, with one running container."""

    harness: Harness
    server: StreamServer
    base_url: str
    sandbox_id: SandboxId
    container_id: ContainerId

    async def exec(self, *cmd: str, tty: bool = False, stdin: bool = False, stdout: bool = True, stderr: bool = False) -> str:
        """The URL of an exec."""
        request = ExecRequest(container_id=self.container_id, cmd=cmd, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr)
        return await self.harness.services.streams.exec(request)

    async def attach(self, *, stdin: bool = False, stdout: bool = True) -> str:
        """The URL of an attachment."""
        request = AttachRequest(container_id=self.container_id, stdin=stdin, stdout=stdout)
        return await self.harness.services.streams.attach(request)

    async def forward(self, *ports: int) -> str:
        """The URL of a port-forward."""
        request = PortForwardRequest(pod_sandbox_id=self.sandbox_id, port=ports)
        return await self.harness.services.streams.port_forward(request)

    @property
    def address(self) -> str:
        """Where the server listens, as a URL without TLS."""
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def connection(self) -> StreamConnection:
        """The only upgraded connection."""
        (connection,) = self.server.connections
        return connection


@contextlib.asynccontextmanager
async def world(
    backend: Backend | None = None,
    *,
    cmd: tuple[str, ...] = ("sleep",),
    clock: Clock | None = None,
    container: Any = None,
    **config: Any,
) -> AsyncIterator[World]:
    """Serve. `cmd` is the container's command, `config` goes to `StreamConfig`."""
    server = StreamServer(StreamConfig(**config), clock=clock)
    async with Harness(backend or FakeBackend(logs_to_disk=False), urls=server) as harness:
        async with server.serving(harness.services.streams) as base_url:
            sandbox_id = await harness.run_sandbox()
            container_id = await harness.run_container(sandbox_id, "main", *cmd, **(container or {}))
            yield World(harness, server, base_url, sandbox_id, container_id)
        assert not server.connections


async def stands_still(count: Callable[[], int]) -> None:
    """Return when a count has grown, and does so no more."""
    last, times = 0, 0
    async with asyncio.timeout(60):
        while times < 40:
            await asyncio.sleep(0.005)
            times = times + 1 if last and last == count() else 0
            last = count()


async def until(condition: Callable[[], bool]) -> None:
    """Return when it holds; a minute is only there to end a test that will never succeed."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the world has no event for everything
            await asyncio.sleep(0.005)
