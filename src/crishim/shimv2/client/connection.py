"""The connection to a shim, and the server for its events.

`ShimLink` has the task service's calls as methods. Every call but Wait has a time limit: a shim that does not respond is
`DeadlineExceeded`, one whose connection ends `Unavailable`. Errors name the container or exec of the call.

Kata responds with NOT_FOUND to any failure whose text contains "not found". So only State's NOT_FOUND is trusted: another call
raises `NotFound` if State confirms it, or, for Kill, if State reports that the process has exited, and `Unknown` otherwise.

`ShimEvents` is the ttrpc server to which shims forward their events. Exits come from Wait; only OOM events are used.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from crishim._proto import UNDECODABLE
from crishim._proto import shim_events_pb2 as events_pb
from crishim._proto import shim_task_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.errors import CreateRefused, InvalidArgument, NotFound, Unknown
from crishim.interfaces.tracing import span
from crishim.model.process import Exit, TerminalSize
from crishim.shimv2.client.fifos import FifoPaths
from crishim.shimv2.wire.messages import NAMESPACE_KEY, SERVICES, Bootstrap, exit_of, named
from crishim.ttrpc.address import bound_socket
from crishim.ttrpc.client import Client
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Server
from crishim.ttrpc.status import TtrpcError

_log = logging.getLogger(__name__)

_FORWARD: Final = ("containerd.services.events.ttrpc.v1.Events", "Forward")
_LONGEST: Final = 107


class ShimEvents:
    """Serves events on a socket at `path`, mode 0600; calls `oom` with the container's id. For use on one event loop."""

    def __init__(self, path: Path, oom: Callable[[str], None]) -> None:
        self._path = path
        self._oom = oom
        self._server = Server({_FORWARD: self._forward})
        self._opening = asyncio.Lock()
        self._open = False

    @property
    def address(self) -> str:
        """The socket's path; empty if it is too long for a socket, and then no events arrive."""
        return str(self._path) if len(str(self._path).encode()) <= _LONGEST else ""

    async def open(self) -> None:
        """Start listening. May be called again."""
        async with self._opening:
            if self._open or not self.address:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            bound = bound_socket(self._path)
            try:
                await self._server.listen(bound)
            except BaseException:
                bound.close()
                raise
            self._open = True

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()

    async def _forward(self, request: Request) -> bytes:
        try:
            event = events_pb.ForwardRequest.FromString(request.payload).envelope.event
            if event.type_url.rpartition("/")[2] == "containerd.events.TaskOOM":
                self._oom(events_pb.TaskOOM.FromString(event.value).container_id)
        except UNDECODABLE as error:
            raise InvalidArgument("envelope", str(error)) from error
        return b""


M = TypeVar("M", bound=Message)


class ShimLink:
    """The calls of the task service. `name` is a container's id; `exec_id` is empty for its first process."""

    timeout: ClassVar[float] = 20.0
    """Seconds for a call that need not wait for the container."""

    long_timeout: ClassVar[float] = 110.0
    """Seconds for a call that may boot a virtual machine."""

    def __init__(self, client: Client, version: int, namespace: str) -> None:
        self.parts = (client, version, namespace)
        """Its own arguments, for a link of another kind over the same connection."""
        self._client = client
        self._service = SERVICES[version]
        self._metadata = ((NAMESPACE_KEY, namespace),)

    @classmethod
    async def connect(cls, bootstrap: Bootstrap, namespace: str) -> "ShimLink":
        """Connect. Raises `Unavailable`."""
        return cls(await Client.connect(bootstrap.address), bootstrap.version, namespace)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._client.closed.done()

    async def ended(self) -> None:
        """Return when the connection has ended."""
        await self._client.ended()

    async def close(self) -> None:
        """Close the connection; the shim and its tasks keep running."""
        await self._client.close()

    async def create(self, name: str, bundle: Path, fifos: FifoPaths, options: Any | None, *, terminal: bool) -> int:
        """Create a task whose root file system is already in its bundle; return the pid."""
        request = pb.CreateTaskRequest(
            id=name, bundle=str(bundle), terminal=terminal, stdin=fifos.stdin, stdout=fifos.stdout, stderr=fifos.stderr
        )
        if options is not None:
            request.options.CopyFrom(options)
        return (await self._call("Create", request, pb.CreateTaskResponse, timeout=self.long_timeout)).pid

    async def start(self, name: str, exec_id: str = "") -> int:
        """Start a created task or exec; return its pid."""
        request = pb.StartRequest(id=name, exec_id=exec_id)
        return (await self._call("Start", request, pb.StartResponse, timeout=self.long_timeout)).pid

    async def exec(self, name: str, exec_id: str, process: Any, fifos: FifoPaths, *, terminal: bool) -> None:
        """Add an exec to a task; `start` runs it."""
        request = pb.ExecProcessRequest(
            id=name,
            exec_id=exec_id,
            terminal=terminal,
            stdin=fifos.stdin,
            stdout=fifos.stdout,
            stderr=fifos.stderr,
            spec=process,
        )
        await self._call("Exec", request, Empty, timeout=self.long_timeout)

    async def wait(self, name: str, exec_id: str = "") -> Exit:
        """Return when a process has exited; without a time limit."""
        response = await self._call("Wait", pb.WaitRequest(id=name, exec_id=exec_id), pb.WaitResponse, timeout=0)
        return exit_of(response.exit_status, response.exited_at)

    async def state(self, name: str, exec_id: str = "") -> pb.StateResponse:
        """The state of a process."""
        return await self._call("State", pb.StateRequest(id=name, exec_id=exec_id), pb.StateResponse)

    async def kill(self, name: str, number: int, exec_id: str = "", *, everyone: bool = False) -> None:
        """Send a signal."""
        await self._call("Kill", pb.KillRequest(id=name, exec_id=exec_id, signal=number, all=everyone), Empty)

    async def delete(self, name: str, exec_id: str = "") -> None:
        """Delete a task or exec that has exited, or was never started."""
        await self._call("Delete", pb.DeleteRequest(id=name, exec_id=exec_id), pb.DeleteResponse)

    async def resize(self, name: str, exec_id: str, size: TerminalSize) -> None:
        """Resize the terminal."""
        await self._call(
            "ResizePty", pb.ResizePtyRequest(id=name, exec_id=exec_id, width=size.width, height=size.height), Empty
        )

    async def close_stdin(self, name: str, exec_id: str = "") -> None:
        """Close the shim's own end of stdin. Close ours first, or some shims never respond."""
        await self._call("CloseIO", pb.CloseIORequest(id=name, exec_id=exec_id, stdin=True), Empty)

    async def pause(self, name: str) -> None:
        """Freeze a task."""
        await self._call("Pause", pb.PauseRequest(id=name), Empty)

    async def resume(self, name: str) -> None:
        """Resume a task."""
        await self._call("Resume", pb.ResumeRequest(id=name), Empty)

    async def update(self, name: str, resources: Any) -> None:
        """Update a task's limits."""
        await self._call("Update", pb.UpdateTaskRequest(id=name, resources=resources), Empty)

    async def stats(self, name: str) -> Any:
        """The metrics of a task."""
        return (await self._call("Stats", pb.StatsRequest(id=name), pb.StatsResponse)).stats

    async def shim_pid(self, name: str, timeout: float | None = None) -> int:
        """The shim's own pid; `timeout` in seconds."""
        return (await self._call("Connect", pb.ConnectRequest(id=name), pb.ConnectResponse, timeout=timeout)).shim_pid

    async def shutdown(self, name: str) -> None:
        """Shut the shim down if it has no tasks; it may respond, or just close the connection."""
        await self._call("Shutdown", pb.ShutdownRequest(id=name), Empty)

    async def _call(
        self, method: str, request: Message, response: type[M], timeout: float | None = None, *, service: str = ""
    ) -> M:
        """Call a method, of the task service if no other is named. `timeout` 0 is none, None the default."""
        called = service or self._service
        payload = request.SerializeToString()
        limit = (self.timeout if timeout is None else timeout) or None
        try:
            with span(f"{called}/{method}", {"rpc.system": "ttrpc", "rpc.service": called, "rpc.method": method}):
                reply = await self._client.call(called, method, payload, timeout=limit, metadata=self._metadata)
            return response.FromString(reply)
        except TtrpcError as error:
            if service:
                raise named(error, "sandbox", getattr(request, "sandbox_id", "")) from error
            exec_id = "" if method == "Exec" else getattr(request, "exec_id", "")
            name = getattr(request, "id", "")
            refusal = named(error, "exec" if exec_id else "container", exec_id or name)
            if method == "Create" and isinstance(refusal, Unknown | NotFound):
                raise CreateRefused(error.message) from error
            if isinstance(refusal, NotFound) and not await self._is_missing(method, name, exec_id):
                raise Unknown(f"{method} of {exec_id or name}: {error.message}") from error
            raise refusal from error
        except UNDECODABLE as error:
            raise Unknown(f"the shim's answer to {method} cannot be read: {error}") from error

    async def _is_missing(self, method: str, name: str, exec_id: str) -> bool:
        """Whether State confirms the NOT_FOUND of a call, or for Kill that the process has exited."""
        if method == "State":
            return True
        try:
            state = await self.state(name, exec_id)
        except NotFound:
            return True
        return method == "Kill" and state.status == types_pb.STOPPED
