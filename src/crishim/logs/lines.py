r"""The lines of a CRI log file (pure).

A line is `TIMESTAMP STREAM TAGS CONTENT\n`, with single spaces. TIMESTAMP is RFC 3339, written with nine digits of fraction
and `Z`, and read in any form. STREAM is `stdout` or `stderr`; a terminal's output is all `stdout`. TAGS are separated by
colons; the first is `F` for the last piece of a line or `P` for one that continues. CONTENT is the unchanged output without its
newline; a carriage return stays. Source: CRI's log format as the kubelet's and crictl's readers parse it (k8s.io/cri-client,
pkg/logs).

`pieces` makes the lines of output; here they are read.
"""

import datetime as dt
import re
from typing import Final, Literal, TypeAlias

import attrs

from crishim.errors import DataLoss

__all__ = ["Stream"]

Stream: TypeAlias = Literal["stdout", "stderr"]
"""The stream that a line of a CRI log came from."""

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
