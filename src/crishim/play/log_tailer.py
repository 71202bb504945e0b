"""Following a CRI log while its container runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final

from crishim.errors import DataLoss
from crishim.interfaces.seats import Clock
from crishim.logs.lines import Stream, parse

_PERIOD: Final = 0.05


class PodLogFollower:
    """The lines of the log at `path`, as they are written, to the end of the file after `end` was called.

    An existing file is opened at once, so it may be removed meanwhile; a file that never appears has no lines.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._file: BinaryIO | None = None
        self._ended = asyncio.Event()
        self._parts: dict[Stream, bytes] = {}
        self._open()

    def end(self) -> None:
        """The container has exited: read to the end of the file."""
        self._ended.set()

    async def lines(self) -> AsyncIterator[tuple[Stream, str]]:
        """Each line with its stream, without its newline."""
        rest = b""
        try:
            while True:
                last = self._ended.is_set()
                self._open()
                *whole, rest = (rest + (self._file.read() if self._file else b"")).split(b"\n")
                for raw in whole:
                    if (line := self._line(raw)) is not None:
                        yield line
                if last:
                    break
                await self._pause()
            for stream, text in self._parts.items():
                yield stream, text.decode(errors="replace")
        finally:
            if self._file is not None:
                self._file.close()

    async def _pause(self) -> None:
        ended = asyncio.ensure_future(self._ended.wait())
        timer = asyncio.ensure_future(self._clock.sleep(_PERIOD))
        try:
            await asyncio.wait({ended, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            timer.cancel()

    def _line(self, raw: bytes) -> tuple[Stream, str] | None:
        try:
            line = parse(raw)
        except DataLoss:
            return "stderr", raw.decode(errors="replace")
        text = self._parts.pop(line.stream, b"") + line.content
        if line.partial:
            self._parts[line.stream] = text
            return None
        return line.stream, text.decode(errors="replace")

    def _open(self) -> None:
        if self._file is None:
            with contextlib.suppress(FileNotFoundError):
                self._file = self._path.open("rb")
