"""The streams of a container that this process serves itself, without a monitor or an engine.

`ContainerStdio` creates the descriptors with which a process is started, writes its output to the CRI log, copies it to
attached clients, and keeps the container's stdin open. Everything runs on the event loop, without threads. The process is
never blocked by its output: it is read as it arrives, whether or not the disk is full or a client reads its copy.

Call `open`, start the process with the descriptors, call `started`, and when the process has exited `drained` and `close`.
`attach`, `resize` and `reopen` may be called at any time between `started` and `close`. If another program has created the
streams (a shim, with named pipes), call `adopt` instead of `open` and `started`.
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
from crishim.logs.lines import Stream
from crishim.logs.pieces import Piece, Splitter, encode
from crishim.logs.writer import LogFile
from crishim.model.process import TerminalSize

__all__ = ["ChildEnds", "ContainerStdio", "ForeignStreams", "StdioOptions"]

GRACE: Final = 1.0
"""Seconds for which output is awaited from processes that still have a container's pipes open after its exit."""

CHUNK: Final = 16 * 1024
"""Bytes of output that are written to the log in one step of the event loop; single-byte lines grow twentyfold there."""

BACKLOG: Final = 1024 * 1024
"""How many bytes of output are queued for one attached client."""

_log = logging.getLogger(__name__)


@attrs.frozen
class ChildEnds:
    """The descriptors for a process's stdin, stdout and stderr; with `tty` all are the same terminal."""

    stdin: int
    stdout: int
    stderr: int


@attrs.frozen(kw_only=True)
class ForeignStreams:
    """Our ends of streams that another program has created for a process; None for a stream that does not exist.

    `resize` resizes the terminal, if there is one; `stdin_ended` is called when our end of stdin is closed.
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    resize: Callable[[TerminalSize], Awaitable[None]]
    stdin_ended: Callable[[], Awaitable[None]]


class StdioOptions(Protocol):
    """The requested streams of a container; `ContainerSpec` has these attributes."""

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
    """The streams of one container as its spec requests them: `log_path`, `stdin`, `stdin_once`, `tty`.

    For use on one event loop. `backlog` limits what is queued for one attached client, in bytes.
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
        """Open the log and create the descriptors, which stay open until `started` or `close`. To be called once.

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
        """The process has its descriptors: close its ends here, and start reading."""
        self._close_ends()
        self._start_pumps()

    def adopt(self, foreign: ForeignStreams) -> None:
        """Instead of `open` and `started`: open the log, and read and write existing streams.

        The descriptors are taken over, also if it raises as `LogFile` does.
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
        """As `SupportsAttach.attach`: join the streams from now on, until the container or the client ends, or the client is
        too slow.
        """
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
                    _log.warning("the input of an attached client failed: %r", outcome)
            if io.stdin is not None and self._spec.stdin_once:
                await self._end_input()

    def resize(self, size: TerminalSize) -> None:
        """Give the container's terminal its size."""
        if self._spec.tty and self._input is not None:
            self._input.resize(size)

    def reopen(self) -> None:
        """As `LogFile.reopen`. Does nothing without a log."""
        if self._file is not None:
            self._file.reopen()

    async def drained(self, grace: float = GRACE) -> None:
        """Return when all output of the exited process is in the log; attached clients are then ended.

        Output of other processes that still have the pipes open is awaited for `grace` seconds; later output is not read.
        Several callers may wait, also again after a cancellation.
        """
        for reader in self._readers.values():
            reader.end_within(grace)
        if self._pumps:
            await asyncio.wait(self._pumps)
        self._end()

    async def close(self) -> None:
        """Close all descriptors and the log; the file stays. May be called twice, at any time."""
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
