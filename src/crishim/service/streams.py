"""ExecSync, Exec, Attach and PortForward: preconditions, and the path from a stream to the backend.

Exec, Attach and PortForward return a URL; later the streaming server passes the client's streams to `run_exec`, `run_attach`
and `dial`. ExecSync runs the same backend verb with two buffers.
"""

from crishim.errors import DeadlineExceeded, InvalidArgument, Unimplemented
from crishim.interfaces.capabilities import (
    ByteStream,
    ProcessIO,
    SupportsAttach,
    SupportsExec,
    SupportsPortForward,
)
from crishim.lifecycle.states import ContainerAct, SandboxAct, container_after, sandbox_after
from crishim.model.process import AttachRequest, ExecRequest, ExecSpec, ExecSyncResult, Exit, PortForwardRequest, StreamRequest
from crishim.model.values import ContainerId, SandboxId
from crishim.service.backends import BackendHandle
from crishim.service.core import Core
from crishim.service.entries import ContainerEntry, SandboxEntry


class Budget:
    """The bytes that two buffers may store together, so that a reply with both fits into one message."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> int:
        """How many of `size` bytes are granted."""
        granted = min(size, self._left)
        self._left -= granted
        return granted


class Buffer:
    """A `ByteWriter` that stores what the budget grants, and discards the rest while the command keeps running."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._pieces: list[bytes] = []

    async def write(self, data: bytes) -> None:
        """Store as much of `data` as the budget allows."""
        if granted := self._budget.take(len(data)):
            self._pieces.append(data if granted == len(data) else data[:granted])

    def content(self) -> bytes:
        """All that was stored."""
        return b"".join(self._pieces)


class Streams:
    """The process verbs of CRI."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def exec_sync(self, container_id: ContainerId, cmd: tuple[str, ...], timeout: int) -> ExecSyncResult:
        """Run a command to its end. A non-zero exit code is a result, not an error. `timeout` is in seconds; 0 is none.

        Raises `DeadlineExceeded` after the timeout, when every process of the exec has been killed.
        """
        entry, handle, backend = self._exec_handle(container_id)
        budget = Budget(self._core.settings.exec_sync_limit)
        stdout, stderr = Buffer(budget), Buffer(budget)
        work = backend.exec(entry.id, ExecSpec(argv=cmd), ProcessIO(stdout=stdout, stderr=stderr))
        try:
            end = await handle.wait("exec", work, float(timeout) if timeout > 0 else None)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"command {cmd[0]!r} timed out after {timeout} s") from error
        return ExecSyncResult(stdout=stdout.content(), stderr=stderr.content(), exit_code=end.code)

    async def exec(self, request: ExecRequest) -> str:
        """The URL of an exec. Raises `NotFound`, `FailedPrecondition`, `Unimplemented`, `ResourceExhausted`."""
        self._exec_handle(request.container_id)
        return self._mint(request)

    async def attach(self, request: AttachRequest) -> str:
        """The URL of an attach. `request.tty` must equal the container's own `tty`. Raises as `exec`, and `InvalidArgument`."""
        entry, _, _ = self._attach_handle(request.container_id)
        if request.tty != entry.record.config.tty:
            raise InvalidArgument("tty", f"must be {entry.record.config.tty}, as in the container's configuration")
        return self._mint(request)

    async def port_forward(self, request: PortForwardRequest) -> str:
        """The URL of a port forwarding into a ready sandbox. Raises as `exec`."""
        self._dialer(request.pod_sandbox_id)
        return self._mint(request)

    async def run_exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        """Run a process with a client's streams, to its end; called by the streaming server."""
        entry, handle, backend = self._exec_handle(container_id)
        return await handle.wait("exec", backend.exec(entry.id, spec, io))

    async def run_attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """Join a container's streams until it ends or the caller is cancelled; called by the streaming server."""
        entry, handle, backend = self._attach_handle(container_id)
        await handle.wait("attach", backend.attach(entry.id, io))

    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        """Connect to a port of the pod: by the backend where it can dial, else inside the pod's network namespace.

        Raises `Unavailable` when nothing listens there; that does not mark the backend as lost.
        """
        entry, handle, backend = self._dialer(sandbox_id)
        if backend is not None:
            return await handle.ask("dial", backend.dial(entry.id, port), self._core.settings.deadlines.other)
        dialer = self._core.dialer
        assert dialer is not None
        return await self._core.network_step("dial", dialer.dial(entry.record.netns, port))

    def _exec_handle(self, container_id: ContainerId) -> tuple[ContainerEntry, BackendHandle, SupportsExec]:
        entry = self._core.table.container(container_id)
        handle = self._core.handle(entry)
        backend = handle.require(SupportsExec)
        container_after(entry.state, ContainerAct.EXEC, f"container {container_id}")
        return entry, handle, backend

    def _attach_handle(self, container_id: ContainerId) -> tuple[ContainerEntry, BackendHandle, SupportsAttach]:
        entry = self._core.table.container(container_id)
        handle = self._core.handle(entry)
        backend = handle.require(SupportsAttach)
        container_after(entry.state, ContainerAct.ATTACH, f"container {container_id}")
        return entry, handle, backend

    def _dialer(self, sandbox_id: SandboxId) -> tuple[SandboxEntry, BackendHandle, SupportsPortForward | None]:
        entry = self._core.table.sandbox(sandbox_id)
        handle = self._core.handle(entry)
        backend = handle.require(SupportsPortForward) if SupportsPortForward in handle.capabilities else None
        if backend is None and (self._core.dialer is None or not (entry.record.netns or entry.record.spec.host_network)):
            raise Unimplemented(SupportsPortForward.__name__)
        sandbox_after(entry.state, SandboxAct.PORT_FORWARD, f"sandbox {sandbox_id}")
        return entry, handle, backend

    def _mint(self, request: StreamRequest) -> str:
        if self._core.urls is None:
            raise Unimplemented("streaming", "no streaming server was given to this runtime (the extra `streaming` brings it)")
        return self._core.urls.mint(request)
