"""The streams of a task on our side: in this process, or in the node's keeper, which goes on reading while we are away."""

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Final, Protocol

import attrs

from crishim.errors import CrishimError, NotFound, Unavailable
from crishim.interfaces.capabilities import ByteReader, ProcessIO
from crishim.interfaces.keeper import Keeper
from crishim.logs.stdio import ContainerStdio, ForeignStreams
from crishim.model.process import Exit, TerminalSize

_PAUSE: Final = 0.02
"""Seconds between looks at whether the keeper has passed all input on."""


class TaskStreams(Protocol):
    """The streams of one task."""

    @abstractmethod
    async def attach(self, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""

    @abstractmethod
    async def reopen(self) -> None:
        """As `SupportsLogReopen.reopen_log`."""

    @abstractmethod
    async def started(self) -> None:
        """The shim has opened its ends: from now on its close is the end."""

    @abstractmethod
    async def drained(self, end: Exit) -> None:
        """The task has exited: return when all its output is in the log."""

    @abstractmethod
    async def close(self) -> None:
        """Close what is open in this process. May be called twice."""

    @abstractmethod
    async def forget(self) -> None:
        """The task is removed: close all of it."""


class LocalStreams:
    """The streams in this process; what comes while it is away is lost if the task ends meanwhile."""

    def __init__(self, stdio: ContainerStdio) -> None:
        self._stdio = stdio

    async def attach(self, io: ProcessIO) -> None:
        """As `TaskStreams.attach`."""
        await self._stdio.attach(io)

    async def reopen(self) -> None:
        """As `TaskStreams.reopen`."""
        self._stdio.reopen()

    async def started(self) -> None:
        """As `TaskStreams.started`: the writing ends are the pipes'."""

    async def drained(self, end: Exit) -> None:  # noqa: ARG002 - the keeper's
        """As `TaskStreams.drained`."""
        await self._stdio.drained()

    async def close(self) -> None:
        """As `TaskStreams.close`."""
        await self._stdio.close()

    async def forget(self) -> None:
        """As `TaskStreams.forget`."""
        await self._stdio.close()


class RemoteStreams:
    """The streams of the task `name` in the keeper. `ends` has our callbacks for its terminal and the end of its input."""

    def __init__(self, keeper: Keeper, name: str, ends: ForeignStreams, *, stdin_once: bool) -> None:
        self._keeper = keeper
        self._name = name
        self._ends = ends
        self._once = stdin_once
        self._closing: set[asyncio.Task[None]] = set()

    async def attach(self, io: ProcessIO) -> None:
        """As `TaskStreams.attach`: sizes and the end of input go to the shim."""
        stdin = _Watched(io.stdin) if io.stdin is not None else None
        tasks = [asyncio.create_task(self._follow(io.sizes))] if io.sizes is not None else []
        if stdin is not None and self._once:
            tasks.append(asyncio.create_task(self._close_after(stdin)))
        try:
            await self._keeper.attach(self._name, attrs.evolve(io, stdin=stdin, sizes=None))
        except NotFound as error:
            raise Unavailable("the container's monitor is gone") from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if stdin is not None and self._once:
                closing = asyncio.create_task(self._close_input())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    async def reopen(self) -> None:
        """As `TaskStreams.reopen`."""
        try:
            await self._keeper.reopen_log(self._name)
        except NotFound as error:
            raise Unavailable("the container's monitor is gone") from error

    async def started(self) -> None:
        """As `TaskStreams.started`."""
        with contextlib.suppress(NotFound, Unavailable):
            await self._keeper.release(self._name)

    async def drained(self, end: Exit) -> None:
        """As `TaskStreams.drained`; output that a keeper had not written when it was killed is lost."""
        with contextlib.suppress(NotFound, Unavailable):
            await self._keeper.drain(self._name, end)

    async def close(self) -> None:
        """As `TaskStreams.close`: the keeper goes on."""
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def forget(self) -> None:
        """As `TaskStreams.forget`."""
        await self.close()
        with contextlib.suppress(NotFound, Unavailable):
            await self._keeper.forget(self._name)

    async def _follow(self, sizes: AsyncIterator[TerminalSize]) -> None:
        async for size in sizes:
            await self._ends.resize(size)

    async def _close_after(self, stdin: "_Watched") -> None:
        await stdin.ended.wait()
        await self._close_input()

    async def _close_input(self) -> None:
        """Tell the shim of the end of the input once the keeper has passed all of it on."""
        with contextlib.suppress(CrishimError):
            while await self._keeper.takes_input(self._name):  # noqa: ASYNC110 - it is in another process
                await asyncio.sleep(_PAUSE)
            await self._ends.stdin_ended()


class _Watched(ByteReader):
    """A client's input that says when it has ended."""

    def __init__(self, stdin: ByteReader) -> None:
        self._stdin = stdin
        self.ended = asyncio.Event()

    async def read(self) -> bytes:
        """As `ByteReader.read`."""
        data = await self._stdin.read()
        if not data:
            self.ended.set()
        return data
