"""Processes that a runtime left to us: waiting for them, killing all of them, and taking over their terminal."""

import array
import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from crishim.errors import DeadlineExceeded, NotFound, Unknown
from crishim.linux.children import Child, children
from crishim.linux.processes import kill_family
from crishim.logs.execution import ExecStreams
from crishim.model.process import Exit


class AdoptedChild:
    """A process that the runtime started and left to us, adopted while `children.expecting`.

    `kill` ends it and all that it has started, if signals do not.
    """

    def __init__(self, pid: int, kill: Callable[[], Awaitable[None]] | None = None) -> None:
        self._kill = kill or self._kill_family
        self._child: Child | None = None
        with contextlib.suppress(NotFound):
            self._child = children.adopt(pid)

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
        if self._child is not None:
            kill_family((self._child.identity,))

    async def _ended(self) -> None:
        if self._child is not None:
            await self._child.ended()

    def _collect(self) -> Exit:
        code = None if self._child is None else self._child.collect()
        return Exit.unknown() if code is None else Exit.from_returncode(code)


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
