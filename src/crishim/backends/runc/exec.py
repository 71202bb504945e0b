"""Processes that a runtime leaves to this process as children: execs (`AdoptedChild`), and containers without a monitor.

`ChildContainers` is for callers that live as long as their containers. The streams of such a container are named pipes of the
caller, or a terminal whose master side is open here, and its exit is collected here: nothing of it survives this process.
containerd is such a caller: when a shim has exited, it considers the shim's tasks dead and deletes them.
"""

import array
import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from crishim.backends.runc.command import RuntimeCommand
from crishim.errors import DeadlineExceeded, NotFound, Unavailable, Unknown
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import Stdio
from crishim.linux import oom
from crishim.linux.cgroups import Cgroups
from crishim.linux.children import Child, children
from crishim.linux.processes import Identity, kill_family, read_pid
from crishim.logs.execution import ExecStreams
from crishim.model.process import Exit
from crishim.monitor.pipes import opened


class AdoptedChild:
    """A process that the runtime started and left to this process, adopted during `children.expecting`.

    It is collected as soon as it has ended, even while its output is still read: as a zombie it would keep its PID namespace,
    and so its container, from ending. `kill` kills it with all its descendants; by default they are found by /proc.
    """

    def __init__(self, pid: int, kill: Callable[[], Awaitable[None]] | None = None) -> None:
        self._kill = kill or self._kill_family
        self._exit: Exit | None = None
        self._child: Child | None = None
        with contextlib.suppress(NotFound):
            self._child = children.adopt(pid)

    @property
    def identity(self) -> Identity | None:
        """The process; None if it had ended before it could be adopted."""
        return None if self._child is None else self._child.identity

    async def exit(self) -> Exit:
        """Wait for its end. For one caller."""
        await self._ended()
        return self._exit or Exit.unknown()

    async def accompany(self, streams: ExecStreams) -> Exit:
        """Copy its streams until it has ended and its output was read.

        If cancelled before its end, it is killed with all its descendants. If cancelled after its end (by a deadline, while a
        descendant still has its output open), its exit is returned.
        """
        try:
            await streams.copy(self._ended)
        except BaseException as error:
            if self._exit is not None and isinstance(error, asyncio.CancelledError):
                return self._exit
            await asyncio.shield(self.end())
            raise
        return self._exit or Exit.unknown()

    async def end(self) -> None:
        """Kill it with all its descendants, and wait for its end."""
        await self._kill()
        await self.exit()

    async def _kill_family(self) -> None:
        if self._child is not None:
            await kill_family((self._child.identity,))

    async def _ended(self) -> None:
        if self._exit is None:
            if self._child is not None:
                await self._child.ended()
            code = None if self._child is None else self._child.collect()
            self._exit = Exit.unknown() if code is None else Exit.from_returncode(code)


class ConsoleSocket:
    """The socket through which a runtime passes the terminal it has created. `path` must be short."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    async def __aenter__(self) -> Self:
        self._socket.bind(str(self.path))
        self._socket.listen(1)
        self._socket.setblocking(False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    async def terminal(self, *, timeout: float = 10.0) -> int:
        """The descriptor of the terminal's master side."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                connection, _ = await loop.sock_accept(self._socket)
        except TimeoutError:
            raise DeadlineExceeded("the runtime has created no terminal") from None
        with contextlib.closing(connection):
            connection.setblocking(True)
            _, ancillary, _, _ = connection.recvmsg(1024, socket.CMSG_SPACE(array.array("i").itemsize))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                return int(array.array("i", data)[0])
        raise Unknown("the runtime has sent no terminal")


@attrs.frozen
class ChildContainer:
    """One container. `ended` completes with its exit; `master`: our side of its terminal, if it has one."""

    ended: "asyncio.Task[Exit]"
    master: int | None = None


class ChildContainers:
    """The unmonitored containers of one runtime. This process must be a child subreaper."""

    def __init__(self, command: RuntimeCommand, cgroups: Cgroups) -> None:
        self._command = command
        self._cgroups = cgroups
        self._containers: dict[str, ChildContainer] = {}

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._containers

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """As `OciRuntime.create`. Raises `InvalidArgument` for a named pipe that does not exist."""
        args = ("create", f"--bundle={bundle}", f"--pid-file={bundle / 'pidfile'}")
        master = None
        with children.expecting():
            if stdio.terminal:
                master = await self._create_with_terminal(container_id, args)
            else:
                with opened(stdio) as ends:
                    await self._command.start_detached(container_id, [*args, container_id], ends)
            pid = read_pid(bundle / "pidfile")
            child = AdoptedChild(pid)
        ended = asyncio.get_running_loop().create_task(self._end_of(child, self._cgroups.of(pid)))
        self._containers[container_id] = ChildContainer(ended, master)
        return pid

    async def wait(self, container_id: str) -> Exit | None:
        """As `OciRuntime.wait`; None for a container that is not in this table."""
        container = self._containers.get(container_id)
        return None if container is None else await asyncio.shield(container.ended)

    async def attach(self, container_id: str, io: ProcessIO) -> None:
        """Copy the streams of a terminal until the container has ended. Raises `Unavailable` if it has no terminal."""
        container = self._containers.get(container_id)
        if container is None or container.master is None:
            raise Unavailable(f"{container_id} has no terminal in this process")
        streams = ExecStreams(io, tty=True)
        with contextlib.closing(streams):
            streams.adopt_terminal(os.dup(container.master))
            await streams.copy(lambda: _until(container.ended))

    def forget(self, container_id: str) -> None:
        """Forget a deleted container, and close its terminal."""
        container = self._containers.pop(container_id, None)
        if container is not None and container.master is not None:
            os.close(container.master)

    async def _create_with_terminal(self, container_id: str, args: tuple[str, ...]) -> int:
        with tempfile.TemporaryDirectory(prefix="tty") as folder:
            async with ConsoleSocket(Path(folder) / "console") as console:
                await self._command.run(container_id, *args, f"--console-socket={console.path}", container_id)
                return await console.terminal()

    async def _end_of(self, child: AdoptedChild, cgroup: str) -> Exit:
        end = await child.exit()
        if end.code != 128 + signal.SIGKILL:
            return end  # if the OOM killer has killed one, it was not the first process
        killed = await asyncio.to_thread(
            lambda: (
                self._cgroups.killed_for_memory(cgroup)
                or (child.identity is not None and oom.killed_for_memory(child.identity) is True)
            )
        )
        return attrs.evolve(end, oom=killed)


async def _until(ended: "asyncio.Task[Exit]") -> None:
    await asyncio.wait({ended})
