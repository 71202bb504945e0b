"""The chunked transfer coding (RFC 9112, section 7.1), read fast (pure).

The engine sends each entry of a log as a chunk of its own: a general parser spends more on such a chunk than all the rest of us
on the entry in it.

What the engine sends through its streams (pure).

Without a terminal, output comes in frames: an octet for the stream (1 stdout, 2 stderr, 3 an error of the engine's), three
zeros, the payload's length in four octets, big end first, and the payload. With a terminal it comes bare. Source: the Engine
API's reference, "attach a container".

A log adds the time to each entry: `2026-01-02T03:04:05.000000006Z CONTENT`. An entry is a line with its newline, or a piece of
one that is longer than 16 KiB, without. The engine of 20.10 leaves out the newline of the last piece, too; such a piece has the
time of the first one and is shorter.

Entries of a log that the engine sends twice (pure).

An engine that follows its own log across a rotation may begin again a little before the place where it was. Such a repetition
goes back in time, to entries that were just told; a clock that was set back does so too, but tells new ones.

What a pull needs to say and to understand (pure): credentials, and the engine's running report.
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
from crishim.logs.lines import MAX_CONTENT, Stream, parse_time
from crishim.model.image import AuthConfig


class Chunks:
    """Takes the coding off. `ended` once the last chunk and its trailer have come; nothing may follow."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0
        self._in_trailer = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """The content in `data`, joined. Raises `Unavailable` for what is not chunked."""
        data = self._rest + data if self._rest else data
        start, end, made = 0, len(data), []
        while not self.ended:
            if self._left > 0:
                piece = data[start : start + self._left]
                made.append(piece)
                start += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._left = -1
            if self._left < 0:  # the line's end behind a chunk
                if end - start < 2:
                    break
                start, self._left = start + 2, 0
            line = data.find(b"\r\n", start)
            if line < 0:
                break
            start = self._head(data[start:line], line + 2)
        self._rest = data[start:]
        return b"".join(made)

    def _head(self, line: bytes, after: int) -> int:
        """A chunk's head, or a line of the trailer; answers where the next thing begins."""
        if self._in_trailer:
            self.ended = not line
            return after
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError as error:
            raise Unavailable(f"the engine broke off: {line[:20]!r} is no chunk") from error
        self._in_trailer = not self._left
        return after


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
class LogEntry:
    """One entry of a log: nanoseconds since the epoch, stream, and content as `LogFollower.write` takes it."""

    time: int
    stream: Stream
    content: bytes


class LogEntries:
    """Cuts a log with times into entries."""

    def __init__(self, *, tty: bool) -> None:
        self._frames = Frames(tty=tty)
        self._tty = tty
        self._rest = b""
        self._open: dict[Stream, tuple[int, int]] = {}

    def feed(self, data: bytes) -> Iterator[LogEntry]:
        """The entries that are whole. Raises `DataLoss` for what is no log, and `Unknown`."""
        for stream, payload in self._frames.feed(data):
            if not self._tty:
                yield self._entry(stream, payload)
                continue
            self._rest += payload
            while size := self._size():
                yield self._entry(stream, self._rest[:size])
                self._rest = self._rest[size:]

    def finish(self) -> Iterator[LogEntry]:
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

    def _entry(self, stream: Stream, raw: bytes) -> LogEntry:
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
        return LogEntry(time, stream, content)


@functools.lru_cache(maxsize=16)
def _second(text: bytes) -> int:
    return parse_time(text.decode() + "Z")


KEPT: Final = 1 << 14
"""How many entries are remembered."""


class Repeats:
    """Knows the entries that were told last."""

    def __init__(self, kept: int = KEPT) -> None:
        self._order: collections.deque[int] = collections.deque(maxlen=kept)
        self._told: collections.Counter[int] = collections.Counter()
        self._last: dict[Stream, int] = {}
        self._going_back = False

    def again(self, entry: LogEntry) -> bool:
        """Whether this entry is a repetition. Pieces of one line share their time, and are none."""
        mark = hash((entry.stream, entry.time, entry.content))
        back = self._going_back or entry.time < self._last.get(entry.stream, 0)
        if back and mark in self._told:
            self._going_back = True
            return True
        self._going_back = False
        self._last[entry.stream] = entry.time
        self._remember(mark)
        return False

    def _remember(self, mark: int) -> None:
        if len(self._order) == self._order.maxlen:
            oldest = self._order[0]
            self._told[oldest] -= 1
            if not self._told[oldest]:
                del self._told[oldest]
        self._order.append(mark)
        self._told[mark] += 1


_NOT_THERE = frozenset({400, 404})
_REFUSED = frozenset({401, 403})


def registry_auth(auth: AuthConfig | None) -> str:
    """The value of X-Registry-Auth: base64url of JSON, padding kept. Raises `InvalidArgument` for an `auth` that is none."""
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
        raise InvalidArgument("auth.auth", "is no base64 of a name and a password") from error
    if not colon:
        raise InvalidArgument("auth.auth", "has no colon between name and password")
    return username, password


class Progress:
    """Cuts the engine's report into its messages, and keeps the last error: a pull that fails was begun with status 200."""

    def __init__(self) -> None:
        self._rest = b""
        self.error: Mapping[str, Any] | None = None

    def feed(self, data: bytes) -> Iterator[Mapping[str, Any]]:
        """The messages that are whole."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield self._read(line)

    def finish(self) -> Iterator[Mapping[str, Any]]:
        """The report has ended."""
        rest, self._rest = self._rest, b""
        if rest.strip():
            yield self._read(rest)

    def _read(self, line: bytes) -> Mapping[str, Any]:
        message: Mapping[str, Any] = json.loads(line)
        if "error" in message or "errorDetail" in message:
            self.error = message
        return message


def failure(report: Mapping[str, Any], reference: str) -> CrishimError:
    """The error that a report ends with, by its code; most have none, and are the engine's words alone."""
    detail = report.get("errorDetail") or {}
    message = str(detail.get("message") or report.get("error") or "the pull failed")
    code = detail.get("code")
    if code in _NOT_THERE:
        return NotFound("image", reference)
    if code in _REFUSED:
        return PermissionDenied(f"{reference}: {message}")
    return Unknown(f"{reference}: {message}")
