"""Frames: ten bytes of header, then data (pure).

The header is big-endian: data length (u32), stream (u32), kind (u8), flags (u8). Data is at most 4 MiB long. A longer frame
does not end the connection: its data is skipped, and `Oversized` stands in its place, so that the stream it belongs to can be
told. There is no handshake and nothing that keeps a connection alive (containerd/ttrpc, PROTOCOL.md).
"""

import enum
import struct
from typing import Final

import attrs

HEADER: Final = struct.Struct(">IIBB")
MAX_DATA: Final = 4 << 20


class Kind(enum.IntEnum):
    """What a frame is; others may come, and are ignored."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(enum.IntFlag):
    """What a frame says of its stream."""

    NONE = 0
    REMOTE_CLOSED = 1
    """The sender sends nothing more on the stream."""
    REMOTE_OPEN = 2
    """With a request: data frames follow."""
    NO_DATA = 4
    """There is no message in the frame, not even an empty one."""


@attrs.frozen
class Frame:
    """One frame. `kind` is a `Kind`, or a number that nobody knows yet."""

    stream: int
    kind: int
    flags: int = 0
    data: bytes = b""


@attrs.frozen
class Oversized:
    """In place of a frame whose data was too long and was skipped."""

    stream: int
    kind: int
    length: int


def encode(stream: int, kind: int, flags: int = 0, data: bytes = b"") -> bytes:
    """A frame's bytes. The data must be within `MAX_DATA`."""
    return HEADER.pack(len(data), stream, kind, flags) + data


class FrameDecoder:
    """Bytes in, frames out, however the bytes are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> list[Frame | Oversized]:
        """The frames that `data` completes."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._buffer += data
        found: list[Frame | Oversized] = []
        start = 0
        buffer = self._buffer
        while len(buffer) - start >= HEADER.size:
            length, stream, kind, flags = HEADER.unpack_from(buffer, start)
            if length > MAX_DATA:
                found.append(Oversized(stream, kind, length))
                rest = len(buffer) - start - HEADER.size
                self._skip = max(0, length - rest)
                start += HEADER.size + min(length, rest)
                continue
            end = start + HEADER.size + length
            if end > len(buffer):
                break
            found.append(Frame(stream, kind, flags, bytes(buffer[start + HEADER.size : end])))
            start = end
        del buffer[:start]
        return found
