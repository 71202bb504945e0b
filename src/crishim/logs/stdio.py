"""The streams of a container whose backend has nobody else to hold them.

`ContainerStdio` makes the descriptors that a process is started with, writes what comes out of them to the CRI log, hands
copies to attached clients, and keeps the container's stdin. Everything runs on the event loop; there is no thread, and a
process is never held up: its output is read as it comes, with or without room on the disk, whether a client reads its copy or
not.

The order of calls is `open`, start the process with the descriptors, `started`, and when the process has ended `drained` and
`close`. `attach`, `resize` and `reopen` may come at any time between `started` and `close`. Where somebody else has made the
streams (a shim, with named pipes), `adopt` takes the place of `open` and `started`.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import attrs

from crishim.errors import ResourceExhausted
from crishim.interfaces.capabilities import ByteReader, ProcessIO
from crishim.interfaces.seats import Clock
from crishim.logs.attachers import Attacher
from crishim.logs.descriptors import DescriptorReader, DescriptorWriter
from crishim.logs.lines import Piece, Splitter, Stream, encode
from crishim.logs.writer import LogFile
from crishim.model.process import TerminalSize

GRACE: Final = 1.0
"""Seconds for which output is awaited from those who hold a container's pipes when its process has ended."""

CHUNK: Final = 16 * 1024
"""Bytes of output that are written to the log in one turn of the event loop, where they may become twenty times as many."""

BACKLOG: Final = 1024 * 1024
"""How many bytes of output may wait for one attached client."""

_log = logging.getLogger(__name__)


@attrs.frozen
class ChildEnds:
    """The descriptors for a process's stdin, stdout and stderr; all the same one, a terminal's, with `tty`."""

    stdin: int
    stdout: int
    stderr: int


@attrs.frozen(kw_only=True)
class ForeignStreams:
    """Our ends of streams that somebody else has made for a process; None for those that there are not.

    `resize` gives the terminal its size, where there is one; `stdin_ended` is called when our end of stdin was closed.
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    resize: Callable[[TerminalSize], Awaitable[None]]
    stdin_ended: Callable[[], Awaitable[None]]


class StdioOptions(Protocol):
    """What is requested of a container's streams; a `ContainerSpec` says it."""

    @property
    def id(self) -> str: ...  # noqa: D102 - as in ContainerSpec, all five

    @property
    def log_path(self) -> str: ...  # noqa: D102

    @property
    def stdin(self) -> bool: ...  # noqa: D102

    @property
    def stdin_once(self) -> bool: ...  # noqa: D102

    @property
    def tty(self) -> bool: ...  # noqa: D102


class ContainerStdio:
    """The streams of one container, as its spec requested them: `log_path`, `stdin`, `stdin_once`, `tty`.

    For use on one event loop. `backlog` bounds what waits for one attached client, in bytes.
    """

    def __init__(self, spec: StdioOptions, clock: Clock, *, backlog: int = BACKLOG) -> None:
        self._spec = spec
        self._clock = clock
        self._backlog = backlog
        self._file: LogFile | None = None
        self._ends: ChildEnds | None = None
        self._foreign: ForeignStreams | None = None
        self._readers: dict[Stream, DescriptorReader] = {}
        self._input: DescriptorWriter | None = None
        self._input_ended = False
        self._pumps: set[asyncio.Task[None]] = set()
        self._attachers: set[Attacher] = set()
        self._ended = False

    def open(self) -> ChildEnds:
        """Open the log and make the descriptors, which stay open until `started` or `close`. To be called once.

        Raises as `LogFile` does, and `ResourceExhausted` when there are no descriptors left; nothing is left open then.
        """
        with contextlib.ExitStack() as undo:
            self._open_log(undo)
            try:
                self._ends = self._open_terminal(undo) if self._spec.tty else self._open_pipes(undo)
            except OSError as error:
                raise ResourceExhausted(f"no streams for container {self._spec.id}: {error.strerror}") from error
            undo.pop_all()
        return self._ends

    def started(self) -> None:
        """The process has its descriptors: let go of its ends, and read."""
        self._close_ends()
        self._start_pumps()

    def adopt(self, foreign: ForeignStreams) -> None:
        """Instead of `open` and `started`: open the log, and read and write streams that somebody else has made.

        The descriptors are taken over, also when it raises as `LogFile` does.
        """
        with contextlib.ExitStack() as undo:
            for fd in (foreign.stdin, foreign.stdout, foreign.stderr):
                if fd is not None:
                    undo.callback(os.close, fd)
            self._open_log(undo)
            undo.pop_all()
        self._foreign = foreign
        self._input = None if foreign.stdin is None else DescriptorWriter(foreign.stdin)
        if foreign.stdout is not None:
            self._readers["stdout"] = DescriptorReader(foreign.stdout, CHUNK)
        if foreign.stderr is not None:
            self._readers["stderr"] = DescriptorReader(foreign.stderr, CHUNK)
        self._start_pumps()

    async def attach(self, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`: join the streams from now on, until the container or the client is done, or too slow."""
        if self._ended:
            return
        attacher = Attacher(io, self._backlog)
        self._attachers.add(attacher)
        feeds: list[asyncio.Task[None]] = []
        if io.stdin is not None and self._spec.stdin:
            feeds.append(asyncio.create_task(self._feed(io.stdin)))
        if io.sizes is not None and self._spec.tty:
            feeds.append(asyncio.create_task(self._follow(io.sizes)))
        try:
            await attacher.run()
        finally:
            self._attachers.discard(attacher)
            for feed in feeds:
                feed.cancel()
            for outcome in await asyncio.gather(*feeds, return_exceptions=True):
                if isinstance(outcome, Exception):
                    _log.warning("the input of an attached client broke off: %r", outcome)
            if io.stdin is not None and self._spec.stdin_once:
                await self._end_input()

    def resize(self, size: TerminalSize) -> None:
        """Give the container's terminal its size."""
        if self._spec.tty and self._input is not None:
            self._input.resize(size)

    def reopen(self) -> None:
        """As `LogFile.reopen`. Without a log there is nothing to do."""
        if self._file is not None:
            self._file.reopen()

    async def drained(self, grace: float = GRACE) -> None:
        """Return when all output of the ended process has reached the log; attached clients then come to their end.

        Others who still hold the pipes are awaited for `grace` seconds; what they write later is not read. May be called by
        many, and again after it was cancelled.
        """
        for reader in self._readers.values():
            reader.end_within(grace)
        if self._pumps:
            await asyncio.wait(self._pumps)
        self._end()

    async def close(self) -> None:
        """Let go of all descriptors and of the log; the file stays. May be called twice, at any time."""
        self._close_ends()
        for reader in self._readers.values():
            reader.close()
        if self._pumps:
            await asyncio.wait(self._pumps)
        self._end()
        if self._file is not None:
            self._file.close()

    def _open_log(self, undo: contextlib.ExitStack) -> None:
        if self._spec.log_path:
            self._file = LogFile(Path(self._spec.log_path))
            undo.callback(self._file.close)

    def _start_pumps(self) -> None:
        for stream, reader in self._readers.items():
            self._pumps.add(asyncio.create_task(self._pump(stream, reader), name=f"{stream} of {self._spec.id}"))

    def _open_pipes(self, undo: contextlib.ExitStack) -> ChildEnds:
        feed = None
        if self._spec.stdin:
            stdin, feed = _pipe(undo)
        else:
            stdin = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            undo.callback(os.close, stdin)
        from_stdout, stdout = _pipe(undo)
        from_stderr, stderr = _pipe(undo)
        self._input = None if feed is None else DescriptorWriter(feed)
        self._readers = {"stdout": DescriptorReader(from_stdout, CHUNK), "stderr": DescriptorReader(from_stderr, CHUNK)}
        return ChildEnds(stdin, stdout, stderr)

    def _open_terminal(self, undo: contextlib.ExitStack) -> ChildEnds:
        master, slave = os.openpty()
        undo.callback(os.close, master)
        undo.callback(os.close, slave)
        feed = os.dup(master)
        undo.callback(os.close, feed)
        self._input = DescriptorWriter(feed)
        self._readers = {"stdout": DescriptorReader(master, CHUNK)}
        return ChildEnds(slave, slave, slave)

    def _close_ends(self) -> None:
        ends, self._ends = self._ends, None
        if ends is not None:
            for fd in {ends.stdin, ends.stdout, ends.stderr}:
                os.close(fd)

    async def _pump(self, stream: Stream, reader: DescriptorReader) -> None:
        splitter = Splitter()
        try:
            while data := await reader.read():
                self._write(stream, splitter.feed(data))
                for attacher in tuple(self._attachers):
                    attacher.offer(stream, data)
        finally:
            self._write(stream, splitter.finish())
            reader.close()

    def _write(self, stream: Stream, pieces: list[Piece]) -> None:
        if self._file is not None and pieces:
            self._file.append(encode(self._clock.now(), stream, pieces))

    async def _feed(self, stdin: ByteReader) -> None:
        assert self._input is not None
        with contextlib.suppress(BrokenPipeError):
            while data := await stdin.read():
                await self._input.write(data)
        if self._spec.stdin_once:
            await self._end_input()

    async def _follow(self, sizes: AsyncIterator[TerminalSize]) -> None:
        async for size in sizes:
            if self._foreign is None:
                self.resize(size)
            else:
                await self._foreign.resize(size)

    async def _end_input(self) -> None:
        if self._input is not None and not self._input_ended:
            self._input_ended = True
            await self._input.end_of_input()
            if self._foreign is not None:
                await self._foreign.stdin_ended()

    def _end(self) -> None:
        self._ended = True
        if self._input is not None:
            self._input.close()
        for attacher in self._attachers:
            attacher.end()


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        undo.callback(os.close, end)
    return ends
