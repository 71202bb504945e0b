"""What the engine sends through its streams (pure).

Without a terminal, output comes in frames: an octet for the stream (1 stdout, 2 stderr, 3 an error of the engine's), three
zeros, the payload's length in four octets, big end first, and the payload. With a terminal it comes bare. Source: the Engine
API's reference, "attach a container".

A log adds the time to each entry: `2026-01-02T03:04:05.000000006Z CONTENT`. An entry is a line with its newline, or a piece of
one that is longer than 16 KiB, without. The engine of 20.10 leaves out the newline of the last piece, too; such a piece has the
time of the first one and is shorter.
"""

import functools
import re
from collections.abc import Iterator
from typing import Final

import attrs

from crishim.errors import DataLoss, Unknown
from crishim.logs.lines import MAX_CONTENT, Stream, parse_time

_STREAMS: Final[dict[int, Stream]] = {0: "stdout", 1: "stdout", 2: "stderr"}
_HEAD: Final = 8
_STAMP: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")
_STAMP_SIZE: Final = 31


class Frames:
    """Cuts a stream's bytes into pieces of output."""

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Stream, bytes]]:
        """The pieces that are whole. Raises `Unknown` with what the engine says went wrong."""
        if self._tty:
            yield "stdout", data
            return
        self._rest += data
        start = 0
        while len(self._rest) - start >= _HEAD:
            end = start + _HEAD + int.from_bytes(self._rest[start + 4 : start + _HEAD], "big")
            if len(self._rest) < end:
                break
            kind, payload = self._rest[start], bytes(self._rest[start + _HEAD : end])
            start = end
            if kind not in _STREAMS:
                raise Unknown(f"the engine says: {payload.decode(errors='replace')}")
            yield _STREAMS[kind], payload
        del self._rest[:start]


@attrs.frozen
class Entry:
    """One entry of a log: nanoseconds since the epoch, stream, and content as `LogFollower.write` takes it."""

    time: int
    stream: Stream
    content: bytes


class Entries:
    """Cuts a log with times into entries."""

    def __init__(self, *, tty: bool) -> None:
        self._frames = Frames(tty=tty)
        self._tty = tty
        self._rest = b""
        self._open: dict[Stream, tuple[int, int]] = {}

    def feed(self, data: bytes) -> Iterator[Entry]:
        """The entries that are whole. Raises `DataLoss` for what is no log, and `Unknown`."""
        for stream, payload in self._frames.feed(data):
            if not self._tty:
                yield self._entry(stream, payload)
                continue
            self._rest += payload
            while size := self._size():
                yield self._entry(stream, self._rest[:size])
                self._rest = self._rest[size:]

    def finish(self) -> Iterator[Entry]:
        """The log has ended: what is left."""
        if self._rest:
            yield self._entry("stdout", self._rest)
            self._rest = b""

    def _size(self) -> int:
        """How long the first entry of the rest is; 0 if that cannot be said yet."""
        most = _STAMP_SIZE + MAX_CONTENT
        end = self._rest.find(b"\n", _STAMP_SIZE, most) + 1
        if "stdout" in self._open:  # a last piece may lack its newline: then the next entry's time follows it
            inner = _STAMP.search(self._rest, _STAMP_SIZE, end or most + _STAMP_SIZE)
            if inner is not None:
                return inner.start()
        if end:
            return end
        return most if len(self._rest) >= most + ("stdout" in self._open) * _STAMP_SIZE else 0

    def _entry(self, stream: Stream, raw: bytes) -> Entry:
        if not _STAMP.match(raw):
            raise DataLoss(f"no entry of a log: {raw[:60]!r}")
        time, content = _second(raw[:19]) + int(raw[20:29]), raw[_STAMP_SIZE:]
        if content.endswith(b"\n"):
            self._open.pop(stream, None)
        elif self._open.get(stream, (0, 0))[0] == time and len(content) < self._open[stream][1]:
            del self._open[stream]
            content += b"\n"
        else:
            self._open[stream] = time, len(content)
        return Entry(time, stream, content)


@functools.lru_cache(maxsize=16)
def _second(text: bytes) -> int:
    return parse_time(text.decode() + "Z")
