"""A CRI log written from a stream that somebody else keeps with its times (docker's engine), across restarts of ours.

The log itself tells where to go on. `resume_point` (pure) finds in its end the time from which to ask the keeper again, and
the lines that are there already; the follower drops as many of the repeated lines as are there, and no more. Two streams of
one container may be kept slightly out of order, so a little more than strictly new is asked for.
"""

import collections
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import DataLoss
from crishim.logs.lines import MAX_CONTENT, Splitter, Stream, encode, parse
from crishim.logs.writer import LogFile

OVERLAP: Final = 1_000_000_000
"""By how much the streams of one container may be out of order, in nanoseconds."""

TAIL: Final = 1024 * 1024
"""How much of a log's end is looked at, in bytes."""


@attrs.frozen
class ResumePoint:
    """From when to ask again (nanoseconds, inclusive), the lines that are there from then on, and the size of a torn one."""

    since: int = 0
    lines: tuple[bytes, ...] = ()
    torn: int = 0


def resume_point(tail: bytes, *, cut: bool = False, overlap: int = OVERLAP) -> ResumePoint:
    """Where to go on behind a log that ends with `tail`; `cut` says that the log has more before it.

    Raises `DataLoss` for a tail that is no log.
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
    """Writes a log at `path` and goes on where it ends. `since` is what the keeper is to be asked for, 0 for everything.

    Entries from before `since` must not be written. Where the log was just rotated and is still empty, the file it was renamed
    to tells where to go on. Raises as `LogFile` does, and `DataLoss` for a file that is no log.
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
        """Write one entry as the keeper has it: with its newline, or without one where the line goes on in the next entry."""
        self.write_all([(time, stream, entry)])

    def write_all(self, entries: Iterable[tuple[int, Stream, bytes]]) -> None:
        """Write entries at once."""
        made = (line for time, stream, entry in entries for line in _lines(time, stream, entry))
        self._file.append(b"".join([line for line in made if not self._is_there(line)]))

    def reopen(self) -> None:
        """As `LogFile.reopen`."""
        self._file.reopen()

    def close(self) -> None:
        """Write no more. May be called twice."""
        self._file.close()

    def _is_there(self, line: bytes) -> bool:
        if not self._there:
            return False
        count = self._there[line]
        if count > 0:
            self._there[line] = count - 1
        return count > 0


def _lines(time: int, stream: Stream, entry: bytes) -> list[bytes]:
    if 0 < len(entry) <= MAX_CONTENT and entry.find(b"\n") == len(entry) - 1:  # one whole line, as nearly always
        return [encode(time, stream, [(entry[:-1], False)])]
    splitter = Splitter()
    pieces = (*splitter.feed(entry), *splitter.finish())
    return [encode(time, stream, [(line, partial)]) for content, partial in pieces for line in content.split(b"\n")]


def _rotated(path: Path) -> list[Path]:
    """The files that the kubelet has renamed this log to (`LOG.YYYYMMDD-HHMMSS`) and not yet compressed, the newest first."""
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
