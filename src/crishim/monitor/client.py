"""One conmon per container: starting it, and finding it after a restart.

Once its container is created, conmon is no child of ours: it has the container's streams, log and exit while no server runs.
All that is needed to find it is in the bundle. If conmon is killed, the container continues and its exit is unknown.

conmon reads its start pipe before it runs the runtime, and takes the end of the pipe as the command to continue. To abandon a
creation, conmon must be killed before the pipe is closed. If our process dies in between, conmon tries the creation: with an
incomplete bundle that fails, and a container from a complete one is found by the next server.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from weakref import WeakValueDictionary

from crishim.errors import CrishimError, DeadlineExceeded, FailedPrecondition, Unavailable, Unknown
from crishim.interfaces.capabilities import ByteReader, ProcessIO
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux import processes
from crishim.linux.children import children, end_program
from crishim.linux.processes import Identity
from crishim.logs.attachers import Attacher
from crishim.model.process import Exit, TerminalSize
from crishim.monitor import conmon
from crishim.monitor.conmon import MonitorRequest
from crishim.monitor.interface import exit_of, make_log_folder, unmonitored_exit
from crishim.monitor.pipes import opened

_BACKLOG = 1024 * 1024
_REOPENED_WITHIN = 10.0
_READ_WITHIN = 1.0
"""Seconds within which conmon must open a log, or read a line from its fifo."""
_PACKET_MOST = 8192 + 1


class ConmonMonitor:
    """Starts conmons and sends them commands. `program` is looked up on PATH."""

    def __init__(self, program: str = "conmon") -> None:
        self._program = program
        self._controls: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    async def begin(self, request: MonitorRequest) -> "PreparedMonitor":
        """Start a conmon, which waits before it creates the container; only the folder of the bundle must exist.

        Raises `FailedPrecondition` if conmon is not installed, and `InvalidArgument` for a named pipe that does not exist.
        """
        (request.bundle / "exits").mkdir(exist_ok=True)
        sync_read, sync_write = os.pipe()
        start_read, start_write = os.pipe()
        try:
            with opened(request.stdio) as ends:
                process = await children.start(
                    self._program,
                    *conmon.create_argv(request),
                    env={**os.environ, "_OCI_SYNCPIPE": str(sync_write), "_OCI_STARTPIPE": str(start_read)},
                    pass_fds=(sync_write, start_read),
                    cwd=request.bundle,  # it writes another `oom` file to its working directory
                    stdin=ends.stdin,
                    stdout=ends.stdout,
                    stderr=ends.stderr,
                )
        except BaseException as error:
            for end in (sync_read, start_write):
                os.close(end)
            if isinstance(error, FileNotFoundError):
                raise FailedPrecondition("missing", "installed", self._program) from error
            raise
        finally:
            for end in (sync_write, start_read):
                os.close(end)
        return PreparedMonitor(request, process, sync_read, start_write)

    def alive(self, bundle: Path, container_id: str) -> bool | None:
        """As `Monitor.alive`: it runs as long as its monitor, which exits after it has recorded the exit."""
        if exit_of(bundle) is not None:
            return False
        monitor = monitor_of(bundle, container_id)
        return True if monitor is not None and processes.runs(monitor) else None

    async def wait(self, bundle: Path, container_id: str) -> Exit:
        """Wait for the end of the container; returns at once if it has ended. Unknown if conmon died first."""
        if (end := exit_of(bundle)) is None and (monitor := monitor_of(bundle, container_id)) is not None:
            await processes.ended(monitor)
            end = exit_of(bundle)
        if end is None and (first := processes.recorded(bundle / FIRST_PROCESS)) is not None:
            end = await unmonitored_exit(first)
        return exit_of(bundle) or end or Exit.unknown()

    async def clear(self, bundle: Path, container_id: str, cgroups: tuple[Path, ...], *, timeout: float = 2.0) -> None:
        """Remove the cgroups of a container's monitor, after its end."""
        if not any(folder.exists() for folder in cgroups):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                if (monitor := monitor_of(bundle, container_id)) is not None:
                    await processes.ended(monitor)
        for folder in cgroups:
            with contextlib.suppress(OSError):
                folder.rmdir()

    async def attach(self, bundle: Path, sockets: Path, container_id: str, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`. Output is always read: conmon blocks the container if a client reads slowly."""
        loop = asyncio.get_running_loop()
        path = sockets / conmon.socket_name(container_id) / "attach"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.setblocking(False)
            try:
                await loop.sock_connect(connection, str(path))
            except OSError as error:
                raise Unavailable(f"the monitor of {container_id} cannot be reached: {error.strerror}") from error
            attacher = Attacher(io, _BACKLOG)
            feeds = [_feed(connection, io.stdin)] if io.stdin is not None else []
            sizes = [self._follow(bundle, io.sizes)] if io.sizes is not None else []
            await attacher.run_beside(_pump(connection, attacher), *feeds, *sizes)

    async def _follow(self, bundle: Path, sizes: AsyncIterator[TerminalSize]) -> None:
        """Pass a client's terminal sizes on."""
        async for size in sizes:
            with contextlib.suppress(CrishimError):
                await self.resize(bundle, size)

    async def resize(self, bundle: Path, size: TerminalSize) -> None:
        """Set the size of the container's terminal."""
        await self._control(bundle, conmon.resize_line(size))

    async def reopen(self, bundle: Path, container_id: str, log: Path) -> None:
        """Have conmon reopen its log, and return when the file exists.

        conmon exits if it cannot open the file, so the folder is created first: it may have been removed to free a full disk.
        Raises `ResourceExhausted` or `PermissionDenied` if it cannot be created, and `Unavailable` if the monitor has died.
        """
        make_log_folder(log.parent)
        monitor = monitor_of(bundle, container_id)
        if monitor is None:
            raise Unavailable("the container's monitor has died")
        await self._control(bundle, conmon.REOPEN_LINE)
        died = asyncio.ensure_future(processes.ended(monitor))
        try:
            async with asyncio.timeout(_REOPENED_WITHIN):
                while not log.exists():  # noqa: ASYNC240 - conmon reports nothing; the file is the only sign
                    if died.done():
                        raise Unavailable("the container's monitor has died while it opened the log")
                    await asyncio.sleep(0.001)
        finally:
            died.cancel()

    async def _control(self, bundle: Path, line: bytes) -> None:
        """Write one line to conmon's fifo and return when it was read: of several lines in one read conmon handles only the
        first.
        """
        async with self._controls.setdefault(bundle, asyncio.Lock()):
            try:
                fd = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                gone = error.errno in {errno.ENXIO, errno.ENOENT}
                raise (Unavailable("the container's monitor has died") if gone else Unknown(str(error))) from error
            try:
                os.write(fd, line)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_READ_WITHIN):
                        while _unread(fd):  # noqa: ASYNC110 - a fifo does not signal that it was read
                            await asyncio.sleep(0.001)
            finally:
                os.close(fd)


def _unread(fifo: int) -> int:
    """The number of unread bytes in a fifo."""
    return int.from_bytes(fcntl.ioctl(fifo, termios.FIONREAD, bytes(4)), sys.byteorder)


class PreparedMonitor:
    """A conmon that has not created its container yet. Either `create` or `leave` is called, once."""

    def __init__(self, request: MonitorRequest, process: asyncio.subprocess.Process, sync: int, start: int) -> None:
        self._request = request
        self._process = process
        self._sync = sync
        self._start = start

    async def create(self, cgroups: tuple[Path, ...], *, timeout: float = 100.0) -> int:
        """Have conmon create the container, and move conmon into `cgroups`. Returns the pid of the container's first process.

        Raises `CreateRefused` with the runtime's message, `Unknown` if conmon fails, and `DeadlineExceeded`.
        """
        with contextlib.suppress(BrokenPipeError):  # conmon has exited; its message is read below
            os.write(self._start, b"\n")
        os.close(self._start)
        try:
            async with asyncio.timeout(timeout):
                line = await read_pipe(self._sync, line=True)
                await self._process.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"the monitor of {self._request.container_id} does not answer") from None
        finally:
            await self._end()
        if not line:
            raise Unknown(f"the monitor of {self._request.container_id} ended without a message")
        pid = conmon.parse_sync(line)
        bundle = self._request.bundle
        if (monitor := monitor_of(bundle, self._request.container_id)) is not None:
            processes.record(bundle / conmon.MONITOR_PROCESS, monitor.pid)
            children.collect_at_end(monitor.pid)
            await asyncio.to_thread(_join, cgroups, monitor.pid)
        return pid

    async def leave(self) -> None:
        """Abandon the creation: kill conmon."""
        try:
            await self._end()
        finally:
            for end in (self._sync, self._start):
                os.close(end)

    async def _end(self) -> None:
        await asyncio.shield(end_program(self._process))


def monitor_of(bundle: Path, container_id: str) -> Identity | None:
    """The process of a container's monitor; None if none was started, or it has ended.

    Until `create` has recorded it, the pid in conmon's own file is trusted only if the process has the container's id as
    argument.
    """
    if (monitor := processes.recorded(bundle / conmon.MONITOR_PROCESS)) is not None:
        return monitor
    pid = processes.read_pid(bundle / "conmon-pidfile")
    with contextlib.suppress(OSError):
        if pid and container_id.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            process = processes.read(pid)
            return None if process is None else process.identity
    return None


def _join(cgroups: tuple[Path, ...], pid: int) -> None:
    """Move a process into cgroups, as far as possible: a monitor also works in another cgroup."""
    for folder in cgroups:
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")


async def _pump(connection: socket.socket, attacher: Attacher) -> None:
    loop = asyncio.get_running_loop()
    try:
        while packet := await loop.sock_recv(connection, _PACKET_MOST):
            attacher.offer("stderr" if packet[0] == conmon.STDERR else "stdout", packet[1:])
    except ConnectionError:
        pass
    finally:
        attacher.end()


async def _feed(connection: socket.socket, stdin: ByteReader) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while data := await stdin.read():
            for start in range(0, len(data), conmon.PACKET):
                await loop.sock_sendall(connection, data[start : start + conmon.PACKET])
        connection.shutdown(socket.SHUT_WR)


async def read_pipe(fd: int, *, line: bool = False) -> bytes:
    """Read a pipe to its end, or one line of it, and close it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    try:
        return await (reader.readline() if line else reader.read())
    finally:
        transport.close()
