r"""The lines of a CRI log file (pure).

A line is `TIMESTAMP STREAM TAGS CONTENT\n`, with single spaces. TIMESTAMP is RFC 3339, written with nine digits of fraction
and `Z`, and read in any form. STREAM is `stdout` or `stderr`; a terminal's output is all `stdout`. TAGS are separated by
colons; the first is `F` for the last piece of a line or `P` for one that continues. CONTENT is the unchanged output without its
newline; a carriage return stays. Source: CRI's log format as the kubelet's and crictl's readers parse it (k8s.io/cri-client,
pkg/logs).

A line of output that is longer than 16 KiB becomes several pieces of exactly that size and a rest. Output without a final
newline ends with a `P` piece. Each stream has its own unfinished line.
"""

import datetime as dt
import functools
import re
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import attrs

from crishim.errors import DataLoss

Stream: TypeAlias = Literal["stdout", "stderr"]

MAX_CONTENT: Final = 16 * 1024
"""The longest content of a line, in bytes."""

_STREAMS: Final[dict[bytes, Stream]] = {b"stdout": "stdout", b"stderr": "stderr"}
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SECOND: Final = 1_000_000_000


@attrs.frozen
class Line:
    """One line of a log: the time in nanoseconds since the epoch, and whether the output's line continues in the next one."""

    time: int
    stream: Stream
    partial: bool
    content: bytes


Piece: TypeAlias = tuple[bytes, bool]
"""Whole lines of the output without the last newline, or (true) a part of a line that continues in the next piece."""


def encode(time: int, stream: Stream, pieces: Iterable[Piece]) -> bytes:
    """Pieces of output with one timestamp as lines of the file, each with its newline."""
    seconds, fraction = divmod(time, _SECOND)
    head = b"%b.%09dZ %b " % (_second(seconds), fraction, stream.encode())
    part, last = head + b"P ", head + b"F "
    return b"".join(
        [
            part + content + b"\n" if partial else last + content.replace(b"\n", b"\n" + last) + b"\n"
            for content, partial in pieces
        ]
    )


def parse(raw: bytes) -> Line:
    """Parse a line, with or without its newline. Raises `DataLoss`."""
    parts = raw.removesuffix(b"\n").split(b" ", 3)
    if len(parts) != 4 or parts[1] not in _STREAMS:
        raise DataLoss(f"not a log line: {raw[:80]!r}")
    time, stream, tags, content = parts
    first = tags.split(b":", 1)[0]
    if first not in {b"P", b"F"}:
        raise DataLoss(f"neither a full nor a partial line: {raw[:80]!r}")
    return Line(parse_time(time.decode("ascii", "replace")), _STREAMS[stream], first == b"P", content)


def parse_time(text: str) -> int:
    """An RFC 3339 time in nanoseconds since the epoch. Raises `DataLoss`."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise DataLoss(f"not a time: {text!r}")
    whole, fraction, zone = match.groups()
    try:
        moment = dt.datetime.fromisoformat(whole + zone)
    except ValueError as error:
        raise DataLoss(f"not a time: {text!r}") from error
    return int(moment.timestamp()) * _SECOND + int((fraction or "").ljust(9, "0"))


class Splitter:
    """Splits one stream's output into pieces of at most 16 KiB, and stores an unfinished line of at most that size.

    Lines that fit are cut off together: the cost of a piece depends on its size, not on the number of its lines.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that are complete."""
        text = self._rest + data
        ready: list[Piece] = []
        start, end = 0, text.rfind(b"\n")
        while len(text) - start > MAX_CONTENT or start <= end:
            newline = text.rfind(b"\n", start, start + MAX_CONTENT + 1)
            if newline < 0:  # the last piece of a line must not be empty, so exactly 16 KiB wait
                ready.append((text[start : start + MAX_CONTENT], True))
                start += MAX_CONTENT
            else:
                ready.append((text[start:newline], False))
                start = newline + 1
        self._rest = text[start:]
        return ready

    def finish(self) -> list[Piece]:
        """At the end of the stream: the unfinished line as a partial piece, if there is one."""
        rest, self._rest = self._rest, b""
        return [(rest, True)] if rest else []


@functools.lru_cache(maxsize=16)
def _second(seconds: int) -> bytes:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
