"""Output as lines of a CRI log file (pure; `lines` has the format). Imports nothing big: the keeper has this module too.

A line of output that is longer than 16 KiB becomes several pieces of exactly that size and a rest. Output without a final
newline ends with a `P` piece. Each stream has its own unfinished line.
"""

import functools
import time as calendar
from collections.abc import Iterable

MAX_CONTENT = 16 * 1024
"""The longest content of a line, in bytes."""

_SECOND = 1_000_000_000

Piece = tuple[bytes, bool]
"""Whole lines of the output without the last newline, or (true) a part of a line that continues in the next piece."""


def encode(time: int, stream: str, pieces: Iterable[Piece]) -> bytes:
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


class Splitter:
    """Splits one stream's output into pieces of at most 16 KiB, and stores an unfinished line of at most that size.

    Lines that fit are cut off together: the cost of a piece depends on its size, not on the number of its lines.
    """

    __slots__ = ("rest",)

    def __init__(self, rest: bytes = b"") -> None:
        self.rest = rest

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that are complete."""
        text = self.rest + data
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
        self.rest = text[start:]
        return ready

    def finish(self) -> list[Piece]:
        """At the end of the stream: the unfinished line as a partial piece, if there is one."""
        rest, self.rest = self.rest, b""
        return [(rest, True)] if rest else []


@functools.lru_cache(maxsize=16)
def _second(seconds: int) -> bytes:
    return calendar.strftime("%Y-%m-%dT%H:%M:%S", calendar.gmtime(seconds)).encode()
