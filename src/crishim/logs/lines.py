r"""The lines of a CRI log file (pure).

A line is `TIMESTAMP STREAM TAGS CONTENT\n`, with single spaces. TIMESTAMP is RFC 3339; we write nine digits of fraction and
`Z`, and read any. STREAM is `stdout` or `stderr`; a terminal's output is all `stdout`. TAGS are separated by colons, the first
one `F` for the last piece of a line or `P` for one that goes on. CONTENT is the output as it was, without its newline; a
carriage return stays. Source: CRI's log format as the kubelet's and crictl's readers parse it (k8s.io/cri-client, pkg/logs).

A line of the output that is longer than 16 KiB becomes several pieces of exactly that size and a rest. What the output ends
with, if it is no newline, is a `P` piece. Each stream has its own unfinished line.
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
    """One line of a log: nanoseconds since the epoch, and whether the output's line goes on in the next one."""

    time: int
    stream: Stream
    partial: bool
    content: bytes


Piece: TypeAlias = tuple[bytes, bool]
"""Whole lines of the output without the last one's newline, or (true) a part of a line that goes on in the next piece."""


def encode(time: int, stream: Stream, pieces: Iterable[Piece]) -> bytes:
    """Pieces of output that came at one time as lines of the file, each with its newline."""
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
    """The line that `raw` is, with or without its newline. Raises `DataLoss` for what is none."""
    parts = raw.removesuffix(b"\n").split(b" ", 3)
    if len(parts) != 4 or parts[1] not in _STREAMS:
        raise DataLoss(f"not a log line: {raw[:80]!r}")
    time, stream, tags, content = parts
    first = tags.split(b":", 1)[0]
    if first not in {b"P", b"F"}:
        raise DataLoss(f"neither a whole line nor a part of one: {raw[:80]!r}")
    return Line(parse_time(time.decode("ascii", "replace")), _STREAMS[stream], first == b"P", content)


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time. Raises `DataLoss`."""
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
    """Cuts one stream's output into pieces of 16 KiB at most, and keeps what is unfinished, which is as much at most.

    Lines that fit are cut off together: what a piece of output costs depends on its size, not on the number of its lines.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that are ready."""
        text = self._rest + data
        ready: list[Piece] = []
        start, end = 0, text.rfind(b"\n")
        while len(text) - start > MAX_CONTENT or start <= end:
            newline = text.rfind(b"\n", start, start + MAX_CONTENT + 1)
            if newline < 0:  # the last piece of a line is never empty: so what is exactly 16 KiB long waits
                ready.append((text[start : start + MAX_CONTENT], True))
                start += MAX_CONTENT
            else:
                ready.append((text[start:newline], False))
                start = newline + 1
        self._rest = text[start:]
        return ready

    def finish(self) -> list[Piece]:
        """The stream has ended: what is left, if anything, as a part of a line that never ended."""
        rest, self._rest = self._rest, b""
        return [(rest, True)] if rest else []


@functools.lru_cache(maxsize=16)
def _second(seconds: int) -> bytes:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
