"""Writes a CRI log from a stream with timestamps that another program stores (docker's engine), across restarts.

The log itself shows where to continue. `resume_point` (pure) derives from its end the time from which to request the stream
again, and the lines that are already written; the follower drops as many of the repeated lines as are there, and no more. The
two streams of a container may be stored slightly out of order, so the request overlaps.
"""

import collections
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import DataLoss
from crishim.logs.lines import Stream, parse
from crishim.logs.pieces import MAX_CONTENT, Splitter, encode
from crishim.logs.writer import LogFile

__all__ = ["LogFollower"]

OVERLAP: Final = 1_000_000_000
"""By how much the streams of one container may be out of order, in nanoseconds."""

TAIL: Final = 1024 * 1024
"""The length of the log's end that is read, in bytes."""


@attrs.frozen
class ResumePoint:
    """The time from which to request again (nanoseconds, inclusive), the lines written since then, and the size of an
    incomplete last line.
    """

    since: int = 0
    lines: tuple[bytes, ...] = ()
    torn: int = 0


def resume_point(tail: bytes, *, cut: bool = False, overlap: int = OVERLAP) -> ResumePoint:
    """Where to continue a log that ends with `tail`; `cut` if the log is longer than `tail`.

    Raises `DataLoss` for a tail that is not a CRI log.
    """
    whole = tail[: tail.rfind(b"\n") + 1]
    torn = len(tail) - len(whole)
    lines = [line + b"\n" for line in whole.split(b"\n")[cut:-1]]
    if not lines:
        return ResumePoint(torn=torn)
    times = [parse(line).time for line in lines]
    last = max(times)
    first = min(times[0] + 1, last) if cut else times[0]
    since = max(last - overlap, first)
    return ResumePoint(since, tuple(line for line, time in zip(lines, times, strict=True) if time >= since), torn)


class LogFollower:
    """Writes a log at `path` and continues at its end. `since` is the time from which to request the stream, 0 for everything.

    Do not write entries from before `since`. If the log was just rotated and is still empty, the renamed file shows where to
    continue. Raises as `LogFile` does, and `DataLoss` for a file that is not a CRI log.
    """

    def __init__(self, path: Path) -> None:
        point = ResumePoint()
        for candidate in (path, *_rotated(path)):
            point = _resume_point(candidate)
            if candidate == path and point.torn:
                os.truncate(path, path.stat().st_size - point.torn)
            if point.since:
                break
        self.since = point.since
        self._there = collections.Counter(point.lines)
        self._file = LogFile(path)

    def write(self, time: int, stream: Stream, entry: bytes) -> None:
        """Write one entry: with its newline, or without one if the line continues in the next entry."""
        self.write_all([(time, stream, entry)])

    def write_all(self, entries: Iterable[tuple[int, Stream, bytes]]) -> None:
        """Write several entries in one call."""
        encoded = (line for time, stream, entry in entries for line in _lines(time, stream, entry))
        self._file.append(b"".join([line for line in encoded if not self._is_there(line)]))

    def reopen(self) -> None:
        """As `LogFile.reopen`."""
        self._file.reopen()

    def close(self) -> None:
        """Stop writing. May be called twice."""
        self._file.close()

    def _is_there(self, line: bytes) -> bool:
        if not self._there:
            return False
        count = self._there[line]
        if count > 0:
            self._there[line] = count - 1
        return count > 0


def _lines(time: int, stream: Stream, entry: bytes) -> list[bytes]:
    if 0 < len(entry) <= MAX_CONTENT and entry.find(b"\n") == len(entry) - 1:  # one whole line, the common case
        return [encode(time, stream, [(entry[:-1], False)])]
    splitter = Splitter()
    pieces = (*splitter.feed(entry), *splitter.finish())
    return [encode(time, stream, [(line, partial)]) for content, partial in pieces for line in content.split(b"\n")]


def _rotated(path: Path) -> list[Path]:
    """The files to which the kubelet has renamed this log (`LOG.YYYYMMDD-HHMMSS`) and which are not compressed yet, the newest
    first.
    """
    if not path.parent.is_dir():
        return []
    name = re.compile(re.escape(path.name) + r"\.\d{8}-\d{6}")
    return sorted((file for file in path.parent.iterdir() if name.fullmatch(file.name)), reverse=True)


def _resume_point(path: Path) -> ResumePoint:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            return resume_point(file.read(TAIL), cut=size > TAIL)
    except FileNotFoundError:
        return ResumePoint()
    except DataLoss as error:
        raise DataLoss(f"{path}: {error}") from error
