"""SPDY/3.1's frames: values to bytes, and bytes in any split to values.

All numbers are big-endian. A control frame is `1|version:15|type:16|flags:8|length:24` and its payload; a data frame
is `0|stream id:31|flags:8|length:24` and its data (SPDY/3 draft, 2.2). 3.1 added only a window per connection, which
the clients of Kubernetes neither respect nor announce.

`FrameReader` buffers at most one control frame and the bytes it was fed: a data frame is returned in pieces as its
bytes arrive, so its length of up to 16 MiB costs no memory. Only the last piece has `fin`.

The following raise `ProtocolError`, as in Go's reader: another version, an unknown type, a length that does not
fit the type, a control frame over the bound, stream id or ping id 0, a reset with status 0, flags on PING and GOAWAY,
and header blocks as described in `spdy_headers`.
"""

import enum
import struct
from typing import TypeAlias

import attrs

from crishim.streaming.events import Headers, ProtocolError
from crishim.streaming.flow import Limits
from crishim.streaming.spdy_headers import HeaderDeflater, HeaderInflater

__all__ = [
    "MAX_LENGTH",
    "MAX_STREAM_ID",
    "VERSION",
    "Data",
    "Frame",
    "FrameReader",
    "FrameType",
    "FrameWriter",
    "GoAway",
    "GoAwayStatus",
    "MoreHeaders",
    "Ping",
    "RstStatus",
    "RstStream",
    "Settings",
    "SynReply",
    "SynStream",
    "WindowUpdate",
    "encode_data_head",
]

VERSION = 3
"""SPDY's version in each control frame."""
MAX_LENGTH = 2**24 - 1
"""The longest payload of a frame, in bytes."""
MAX_STREAM_ID = 2**31 - 1
"""The last id of a stream, by either side."""
_ID_BITS = 0x7FFFFFFF


class FrameType(enum.IntEnum):
    """The types of control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class RstStatus(enum.IntEnum):
    """Reasons of a stream's reset; those that are used here (2.6.3)."""

    PROTOCOL_ERROR = 1
    REFUSED_STREAM = 3
    CANCEL = 5


class GoAwayStatus(enum.IntEnum):
    """Reasons of a connection's end (2.6.6)."""

    OK = 0
    PROTOCOL_ERROR = 1


@attrs.frozen
class Data:
    """Bytes of a stream; a whole frame when written, any piece of one when read."""

    stream_id: int
    data: bytes
    fin: bool = False


@attrs.frozen
class SynStream:
    """Opens a stream. `priority` is 0 to 7, `slot` is not used; a unidirectional stream gets no answer."""

    stream_id: int
    headers: Headers
    fin: bool = False
    unidirectional: bool = False
    associated_id: int = 0
    priority: int = 0
    slot: int = 0


@attrs.frozen
class SynReply:
    """Accepts a stream."""

    stream_id: int
    headers: Headers = ()
    fin: bool = False


@attrs.frozen
class RstStream:
    """Ends a stream at once in both directions. `status` is a `RstStatus` or another number over 0."""

    stream_id: int
    status: int


@attrs.frozen
class Settings:
    """Settings of the peer: (flags, id, value) each."""

    entries: tuple[tuple[int, int, int], ...]


@attrs.frozen
class Ping:
    """To be sent back unchanged. Ids of clients are odd, those of servers even."""

    ping_id: int


@attrs.frozen
class GoAway:
    """No further stream of the receiver will be accepted. `last_good_id`: the last accepted stream."""

    last_good_id: int
    status: int = GoAwayStatus.OK


@attrs.frozen
class MoreHeaders:
    """A HEADERS frame: further headers of an open stream."""

    stream_id: int
    headers: Headers
    fin: bool = False


@attrs.frozen
class WindowUpdate:
    """The peer may send this number of bytes more; stream id 0 is the connection."""

    stream_id: int
    delta: int


Frame: TypeAlias = Data | SynStream | SynReply | RstStream | Settings | Ping | GoAway | MoreHeaders | WindowUpdate
"""What `FrameReader` yields."""


def encode_data_head(stream_id: int, length: int, *, fin: bool = False) -> bytes:
    """The 8 bytes before a data frame's `length` bytes, for callers that do not copy the data."""
    return struct.pack(">II", stream_id, fin << 24 | length)


class FrameWriter:
    """Frames to bytes. One per direction, since header blocks share one compressed stream and must be sent in order."""

    def __init__(self) -> None:
        self._deflater = HeaderDeflater()

    def encode(self, frame: Frame) -> bytes:
        """The bytes of a frame. Numbers must fit their fields; otherwise `struct.error` or `OverflowError` is raised."""
        match frame:
            case Data(stream_id, data, fin):
                return encode_data_head(stream_id, len(data), fin=fin) + data
            case SynStream():
                head = struct.pack(">IIBB", frame.stream_id, frame.associated_id, frame.priority << 5, frame.slot)
                flags = frame.fin | frame.unidirectional << 1
                return _control(FrameType.SYN_STREAM, head + self._deflater.encode(frame.headers), flags)
            case SynReply(stream_id, headers, fin):
                return _control(FrameType.SYN_REPLY, self._with_headers(stream_id, headers), fin)
            case MoreHeaders(stream_id, headers, fin):
                return _control(FrameType.HEADERS, self._with_headers(stream_id, headers), fin)
            case RstStream(stream_id, status):
                return _control(FrameType.RST_STREAM, struct.pack(">II", stream_id, status))
            case Settings(entries):
                packed = (struct.pack(">II", flags << 24 | key, value) for flags, key, value in entries)
                return _control(FrameType.SETTINGS, struct.pack(">I", len(entries)) + b"".join(packed))
            case Ping(ping_id):
                return _control(FrameType.PING, struct.pack(">I", ping_id))
            case GoAway(last_good_id, status):
                return _control(FrameType.GOAWAY, struct.pack(">II", last_good_id, status))
            case WindowUpdate(stream_id, delta):
                return _control(FrameType.WINDOW_UPDATE, struct.pack(">II", stream_id, delta))

    def _with_headers(self, stream_id: int, headers: Headers) -> bytes:
        return struct.pack(">I", stream_id) + self._deflater.encode(headers)


class FrameReader:
    """Bytes to frames, for one direction of a connection.

    `feed` the received bytes, then call `next_frame` until it returns None. After a `ProtocolError` it raises the same
    again.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._max_control = limits.control_frame
        self._inflater = HeaderInflater(limits.header_block)
        self._buffer = b""
        self._offset = 0
        self._data_id = 0  # the current data frame, its remaining length, and whether it ends its stream
        self._data_left = 0
        self._data_fin = False
        self._broken: ProtocolError | None = None

    @property
    def buffered(self) -> int:
        """Bytes fed that belong to no returned frame yet."""
        return len(self._buffer) - self._offset

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer = self._buffer[self._offset :] + data if self.buffered else data
        self._offset = 0

    def next_frame(self) -> Frame | None:
        """The next frame or piece of a data frame; None until more is fed."""
        if self._broken:
            raise self._broken
        try:
            return self._next_frame()
        except ProtocolError as error:
            self._broken = error
            raise

    def _next_frame(self) -> Frame | None:
        if self._data_left:
            return self._piece()
        buffer, offset = self._buffer, self._offset
        if len(buffer) - offset < 8:
            return None
        first, second = struct.unpack_from(">II", buffer, offset)
        flags, length = second >> 24, second & MAX_LENGTH
        if first <= MAX_STREAM_ID:
            self._offset += 8
            return self._data(first, flags, length)
        kind = _known_type(first)
        if length > self._max_control:
            raise ProtocolError(f"{kind.name} frame of {length} bytes is over the bound of {self._max_control}")
        end = offset + 8 + length
        if end > len(buffer):
            return None
        self._offset = end
        return self._control(kind, flags, buffer[offset + 8 : end])

    def _data(self, stream_id: int, flags: int, length: int) -> Data | None:
        if not stream_id:
            raise ProtocolError("data frame for stream 0")
        fin = bool(flags & 1)
        if not length:
            return Data(stream_id, b"", fin)
        self._data_id, self._data_left, self._data_fin = stream_id, length, fin
        return self._piece()

    def _piece(self) -> Data | None:
        piece = self._buffer[self._offset : self._offset + self._data_left]
        if not piece:
            return None
        self._offset += len(piece)
        self._data_left -= len(piece)
        return Data(self._data_id, piece, self._data_fin and not self._data_left)

    def _control(self, kind: FrameType, flags: int, payload: bytes) -> Frame:
        if kind in _EXACT_LENGTH and len(payload) != _EXACT_LENGTH[kind]:
            raise ProtocolError(f"{kind.name} frame of {len(payload)} bytes")
        if kind in {FrameType.PING, FrameType.GOAWAY} and flags:
            raise ProtocolError(f"{kind.name} frame with flags {flags:#x}")
        fin = bool(flags & 1)
        match kind:
            case FrameType.SYN_STREAM:
                return self._syn_stream(fin, bool(flags & 2), payload)
            case FrameType.SYN_REPLY:
                return SynReply(_stream_id(kind, payload), self._inflater.decode(payload[4:]), fin)
            case FrameType.HEADERS:
                return MoreHeaders(_stream_id(kind, payload), self._inflater.decode(payload[4:]), fin)
            case FrameType.RST_STREAM:
                return RstStream(_stream_id(kind, payload), _not_zero(kind, payload[4:]))
            case FrameType.PING:
                return Ping(_not_zero(kind, payload))
            case FrameType.GOAWAY:
                last_good_id, status = struct.unpack(">II", payload)
                return GoAway(last_good_id & _ID_BITS, status)
            case FrameType.WINDOW_UPDATE:
                stream_id, delta = struct.unpack(">II", payload)
                return WindowUpdate(stream_id & _ID_BITS, delta & _ID_BITS)
            case FrameType.SETTINGS:
                return _settings(payload)

    def _syn_stream(self, fin: bool, unidirectional: bool, payload: bytes) -> SynStream:
        if len(payload) < 10:
            raise ProtocolError(f"SYN_STREAM frame of {len(payload)} bytes")
        _, associated, priority, slot = struct.unpack_from(">IIBB", payload)
        return SynStream(
            _stream_id(FrameType.SYN_STREAM, payload),
            self._inflater.decode(payload[10:]),
            fin,
            unidirectional,
            associated & _ID_BITS,
            priority >> 5,
            slot,
        )


_TYPES = {int(kind): kind for kind in FrameType}
_EXACT_LENGTH = {
    FrameType.RST_STREAM: 8,
    FrameType.PING: 4,
    FrameType.GOAWAY: 8,
    FrameType.WINDOW_UPDATE: 8,
}


def _control(kind: FrameType, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, flags << 24 | len(payload)) + payload


def _known_type(first_word: int) -> FrameType:
    version, kind = first_word >> 16 & 0x7FFF, first_word & 0xFFFF
    if version != VERSION or kind not in _TYPES:
        raise ProtocolError(f"control frame of version {version} and type {kind}")
    return _TYPES[kind]


def _stream_id(kind: FrameType, payload: bytes) -> int:
    return _not_zero(kind, payload[:4], _ID_BITS)


def _not_zero(kind: FrameType, word: bytes, bits: int = 0xFFFFFFFF) -> int:
    number = int.from_bytes(word, "big") & bits if len(word) == 4 else 0
    if not number:
        raise ProtocolError(f"{kind.name} frame with 0 for an id or a status, or without it")
    return number


def _settings(payload: bytes) -> Settings:
    count, rest = int.from_bytes(payload[:4], "big"), payload[4:]
    if len(payload) < 4 or len(rest) != 8 * count:
        raise ProtocolError(f"SETTINGS frame of {len(payload)} bytes")
    return Settings(tuple((first >> 24, first & MAX_LENGTH, value) for first, value in struct.iter_unpack(">II", rest)))
