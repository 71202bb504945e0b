"""Processes that a runtime left to us: waiting for them, killing all of them, and taking over their terminal."""

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from crishim import proc
from crishim.backends.runc.orphans import OrphanReaper
from crishim.errors import DeadlineExceeded, Unknown
from crishim.linux.syscalls import last_error, libc
from crishim.logs.execution import ExecStreams
from crishim.model.process import Exit
from crishim.monitor.pidfd import ended

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Let orphans of our children become our children, so that an exec's exit can be collected."""
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise last_error("becoming a child subreaper")


class AdoptedChild:
    """A process that the runtime started and left to us. `kill` ends it and all that it has started, if signals do not."""

    def __init__(self, pid: int, orphans: OrphanReaper, kill: Callable[[], Awaitable[None]] | None = None) -> None:
        self._pid = pid
        self._orphans = orphans
        self._kill = kill or self._kill_family
        process = proc.read(pid)
        self._identity = None if process is None else process.identity
        orphans.spare(pid)

    async def exit(self) -> Exit:
        """Return when it has ended. For one caller."""
        await self._ended()
        return self._collect()

    async def accompany(self, streams: ExecStreams) -> Exit:
        """Copy its streams until it has ended. Cancelled, everything that it started is killed first."""
        try:
            await streams.copy(self._ended)
        except BaseException:
            await asyncio.shield(self._end())
            raise
        return self._collect()

    async def _end(self) -> None:
        await self._kill()
        await self.exit()

    async def _kill_family(self) -> None:
        if self._identity is not None:
            proc.kill_family((self._identity,))

    async def _ended(self) -> None:
        await ended(self._pid)

    def _collect(self) -> Exit:
        self._orphans.release(self._pid)
        try:
            told = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return Exit.unknown()
        if told is None:
            return Exit.unknown()
        return Exit(code=told.si_status if told.si_code == os.CLD_EXITED else 128 + told.si_status)


class ConsoleSocket:
    """Where a runtime hands over the terminal it has made. `path` must be short."""

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
            raise DeadlineExceeded("the runtime has made no terminal") from None
        with contextlib.closing(connection):
            connection.setblocking(True)
            _, ancillary, _, _ = connection.recvmsg(1024, socket.CMSG_SPACE(array.array("i").itemsize))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                return int(array.array("i", data)[0])
        raise Unknown("the runtime has sent no terminal")
