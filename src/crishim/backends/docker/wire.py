"""Decoders of what the engine sends (pure): chunked bodies, output streams, logs, and the reports of pulls.

`Chunks` is the chunked transfer coding (RFC 9112, section 7.1), made fast: the engine sends each entry of a log as a chunk of
its own, and a general parser would cost more than everything else done with the entry.

`Frames` is output. Without a terminal it comes in frames: an octet for the stream (1 stdout, 2 stderr, 3 an error of the
engine's), three zeros, the payload's length in four octets, big-endian, and the payload. With a terminal it comes bare.
Source: the Engine API's reference, "attach a container".

`LogEntries` is a log, in which each entry has a time: `2026-01-02T03:04:05.000000006Z CONTENT`. An entry is a line with its
newline, or a piece of a line longer than 16 KiB without. The engine of 20.10 leaves out the newline of the last piece, too;
such a piece has the time of the first one and is shorter.

`Repeats` finds entries that the engine sends twice: when it follows its own log across a rotation, it may begin again a little
earlier. Such a repetition goes back in time, to entries that were just sent; a clock that was set back does so too, but with
new entries.

`registry_auth`, `Progress` and `failure` are the credentials and the reports of a pull.
"""

import base64
import binascii
import collections
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from crishim.errors import CrishimError, DataLoss, InvalidArgument, NotFound, PermissionDenied, Unavailable, Unknown
from crishim.logs.lines import Stream, parse_time
from crishim.logs.pieces import MAX_CONTENT
from crishim.model.image import AuthConfig


class Chunks:
    """Decodes the coding. `ended` is set after the last chunk and its trailer; nothing may follow."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0
        self._in_trailer = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """The content in `data`, joined. Raises `Unavailable` for invalid coding."""
        data = self._rest + data if self._rest else data
        start, end, pieces = 0, len(data), []
        while not self.ended:
            if self._left > 0:
                piece = data[start : start + self._left]
                pieces.append(piece)
                start += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._left = -1
            if self._left < 0:  # the line end after a chunk
                if end - start < 2:
                    break
                start, self._left = start + 2, 0
            line = data.find(b"\r\n", start)
            if line < 0:
                break
            start = self._head(data[start:line], line + 2)
        self._rest = data[start:]
        return b"".join(pieces)

    def _head(self, line: bytes, after: int) -> int:
        """Parse a chunk's head, or a line of the trailer; return the position after it."""
        if self._in_trailer:
            self.ended = not line
            return after
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError as error:
            raise Unavailable(f"the engine's response is invalid: {line[:20]!r} is not a chunk") from error
        self._in_trailer = not self._left
        return after


_STREAMS: Final[dict[int, Stream]] = {0: "stdout", 1: "stdout", 2: "stderr"}
_HEAD: Final = 8
_STAMP: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")
_STAMP_SIZE: Final = 31


class Frames:
    """Splits a stream's bytes into pieces of output."""

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Stream, bytes]]:
        """The complete pieces. Raises `Unknown` with an error that the engine sends in the stream."""
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
                raise Unknown(f"the engine reports: {payload.decode(errors='replace')}")
            yield _STREAMS[kind], payload
        del self._rest[:start]


@attrs.frozen
class LogEntry:
    """One entry of a log: nanoseconds since the epoch, stream, and content for `LogFollower.write`."""

    time: int
    stream: Stream
    content: bytes


class LogEntries:
    """Splits a log with times into entries."""

    def __init__(self, *, tty: bool) -> None:
        self._frames = Frames(tty=tty)
        self._tty = tty
        self._rest = b""
        self._open: dict[Stream, tuple[int, int]] = {}

    def feed(self, data: bytes) -> Iterator[LogEntry]:
        """The complete entries. Raises `DataLoss` for invalid data, and `Unknown`."""
        for stream, payload in self._frames.feed(data):
            if not self._tty:
                yield self._entry(stream, payload)
                continue
            self._rest += payload
            while size := self._size():
                yield self._entry(stream, self._rest[:size])
                self._rest = self._rest[size:]

    def finish(self) -> Iterator[LogEntry]:
        """The last entry, at the end of the log."""
        if self._rest:
            yield self._entry("stdout", self._rest)
            self._rest = b""

    def _size(self) -> int:
        """The length of the first entry in the buffer; 0 if it is not known yet."""
        most = _STAMP_SIZE + MAX_CONTENT
        end = self._rest.find(b"\n", _STAMP_SIZE, most) + 1
        if "stdout" in self._open:  # the last piece may have no newline, and is followed by the next entry's time
            inner = _STAMP.search(self._rest, _STAMP_SIZE, end or most + _STAMP_SIZE)
            if inner is not None:
                return inner.start()
        if end:
            return end
        return most if len(self._rest) >= most + ("stdout" in self._open) * _STAMP_SIZE else 0

    def _entry(self, stream: Stream, raw: bytes) -> LogEntry:
        if not _STAMP.match(raw):
            raise DataLoss(f"not an entry of a log: {raw[:60]!r}")
        time, content = _second(raw[:19]) + int(raw[20:29]), raw[_STAMP_SIZE:]
        if content.endswith(b"\n"):
            self._open.pop(stream, None)
        elif self._open.get(stream, (0, 0))[0] == time and len(content) < self._open[stream][1]:
            del self._open[stream]
            content += b"\n"
        else:
            self._open[stream] = time, len(content)
        return LogEntry(time, stream, content)


@functools.lru_cache(maxsize=16)
def _second(text: bytes) -> int:
    return parse_time(text.decode() + "Z")


KEPT: Final = 1 << 14
"""The number of remembered entries."""


class Repeats:
    """Remembers the last entries and finds repetitions."""

    def __init__(self, size: int = KEPT) -> None:
        self._order: collections.deque[int] = collections.deque(maxlen=size)
        self._seen: collections.Counter[int] = collections.Counter()
        self._last: dict[Stream, int] = {}
        self._going_back = False

    def again(self, entry: LogEntry) -> bool:
        """Whether this entry is a repetition. Pieces of one line share their time, and are not."""
        mark = hash((entry.stream, entry.time, entry.content))
        back = self._going_back or entry.time < self._last.get(entry.stream, 0)
        if back and mark in self._seen:
            self._going_back = True
            return True
        self._going_back = False
        self._last[entry.stream] = entry.time
        self._remember(mark)
        return False

    def _remember(self, mark: int) -> None:
        if len(self._order) == self._order.maxlen:
            oldest = self._order[0]
            self._seen[oldest] -= 1
            if not self._seen[oldest]:
                del self._seen[oldest]
        self._order.append(mark)
        self._seen[mark] += 1


_NOT_THERE = frozenset({400, 404})
_REFUSED = frozenset({401, 403})


def registry_auth(auth: AuthConfig | None) -> str:
    """The value of X-Registry-Auth: base64url of JSON, with padding. Raises `InvalidArgument` for an invalid `auth`."""
    said: dict[str, str] = {}
    if auth is not None:
        username, password = auth.username, auth.password
        if auth.auth and not username:
            username, password = _pair(auth.auth)
        said = {
            "username": username,
            "password": password,
            "serveraddress": auth.server_address,
            "identitytoken": auth.identity_token,
            "registrytoken": auth.registry_token,
        }
    packed = json.dumps({key: value for key, value in said.items() if value})
    return base64.urlsafe_b64encode(packed.encode()).decode()


def _pair(packed: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(packed, validate=True).decode().rstrip("\0").partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidArgument("auth.auth", "is not base64 of a name and a password") from error
    if not colon:
        raise InvalidArgument("auth.auth", "has no colon between name and password")
    return username, password


class Progress:
    """Splits the engine's report into its messages, and stores the last error: a pull that fails has begun with status 200."""

    def __init__(self) -> None:
        self._rest = b""
        self.error: Mapping[str, Any] | None = None

    def feed(self, data: bytes) -> Iterator[Mapping[str, Any]]:
        """The complete messages."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield self._read(line)

    def finish(self) -> Iterator[Mapping[str, Any]]:
        """The last message, at the end of the report."""
        rest, self._rest = self._rest, b""
        if rest.strip():
            yield self._read(rest)

    def _read(self, line: bytes) -> Mapping[str, Any]:
        message: Mapping[str, Any] = json.loads(line)
        if "error" in message or "errorDetail" in message:
            self.error = message
        return message


def failure(report: Mapping[str, Any], reference: str) -> CrishimError:
    """The error of a report, by its code; most have none, and only the engine's message."""
    detail = report.get("errorDetail") or {}
    message = str(detail.get("message") or report.get("error") or "the pull failed")
    code = detail.get("code")
    if code in _NOT_THERE:
        return NotFound("image", reference)
    if code in _REFUSED:
        return PermissionDenied(f"{reference}: {message}")
    return Unknown(f"{reference}: {message}")
