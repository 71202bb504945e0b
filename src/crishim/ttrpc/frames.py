"""Frames: ten bytes of header, then data (pure).

The header is big-endian: data length (u32), stream (u32), kind (u8), flags (u8). Data is at most 4 MiB long. A longer frame
does not end the connection: its data is skipped, and `Oversized` is returned in its place, so that its stream can be answered.
There is no handshake and no keep-alive (containerd/ttrpc, PROTOCOL.md).
"""

import enum
import struct
from typing import Final

import attrs

HEADER: Final = struct.Struct(">IIBB")
MAX_DATA: Final = 4 << 20


class Kind(enum.IntEnum):
    """The kind of a frame; unknown ones are ignored."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(enum.IntFlag):
    """The flags of a frame."""

    NONE = 0
    REMOTE_CLOSED = 1
    """The sender sends nothing more on the stream."""
    REMOTE_OPEN = 2
    """With a request: data frames follow."""
    NO_DATA = 4
    """The frame has no message, not even an empty one."""


@attrs.frozen
class Frame:
    """One frame. `kind` is a `Kind`, or an unknown number."""

    stream: int
    kind: int
    flags: int = 0
    data: bytes = b""


@attrs.frozen
class Oversized:
    """Stands for a frame whose data was too long and was skipped."""

    stream: int
    kind: int
    length: int


def encode(stream: int, kind: int, flags: int = 0, data: bytes = b"") -> bytes:
    """A frame's bytes. `data` must be at most `MAX_DATA` long."""
    return HEADER.pack(len(data), stream, kind, flags) + data


class FrameDecoder:
    """Splits a stream of bytes into frames."""

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
        frames: list[Frame | Oversized] = []
        start = 0
        buffer = self._buffer
        while len(buffer) - start >= HEADER.size:
            length, stream, kind, flags = HEADER.unpack_from(buffer, start)
            if length > MAX_DATA:
                frames.append(Oversized(stream, kind, length))
                rest = len(buffer) - start - HEADER.size
                self._skip = max(0, length - rest)
                start += HEADER.size + min(length, rest)
                continue
            end = start + HEADER.size + length
            if end > len(buffer):
                break
            frames.append(Frame(stream, kind, flags, bytes(buffer[start + HEADER.size : end])))
            start = end
        del buffer[:start]
        return frames
