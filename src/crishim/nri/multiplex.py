"""The multiplexer of NRI: two ttrpc connections on one socket, for each direction one.

A frame is a channel number and a length, both 32 bits with the highest byte first, and as many bytes. Nothing is negotiated:
both sides know the channels. Frames of an unknown channel are dropped, as in NRI's own multiplexer.
"""

import asyncio
import struct
from typing import Any, Final

from crishim.ttrpc.frames import HEADER, MAX_DATA

PLUGIN_CHANNEL: Final = 1
"""Served by the plugin, called by the runtime."""

RUNTIME_CHANNEL: Final = 2
"""Served by the runtime, called by the plugin."""

MAX_FRAME: Final = HEADER.size + MAX_DATA
"""What a peer may send in one frame: a whole ttrpc message."""

_HEADER: Final = struct.Struct(">II")
_FIRST: Final = 4096
"""Peers in Go read the first bytes of a message into a buffer of this size, and refuse a longer frame; what remains of the
message they read into one of its own.
"""


def encode(channel: int, data: bytes) -> bytes:
    """The frames of whole ttrpc messages."""
    frames = []
    while data:
        end = HEADER.size + HEADER.unpack_from(data)[0]
        frames += [_HEADER.pack(channel, len(part)) + part for part in (data[:_FIRST][:end], data[_FIRST:end]) if part]
        data = data[end:]
    return b"".join(frames)


class FrameTooLong(Exception):
    """A frame is longer than any message."""


class Decoder:
    """Finds the frames in a stream of bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The complete frames: channel and contents. Raises `FrameTooLong`, after which the stream has no meaning."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= _HEADER.size:
            channel, length = _HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise FrameTooLong(f"a frame of {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append((channel, bytes(self._buffer[_HEADER.size : end])))
            del self._buffer[:end]
        return frames


class Trunk(asyncio.Protocol):
    """The socket's protocol: passes bytes between its transport and the protocols of its channels.

    Channels are bound before the trunk is connected, so that no frame is lost.
    """

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._channels: dict[int, MuxChannel] = {}

    def channel(self, number: int) -> "MuxChannel":
        """The channel of a number; the first call creates it."""
        return self._channels.setdefault(number, MuxChannel(self, number))

    def close(self) -> None:
        """End the connection with all its channels. Unsent data is discarded."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol.connection_made`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol.data_received`."""
        try:
            frames = self._decoder.feed(data)
        except FrameTooLong:
            self.close()
            return
        for number, contents in frames:
            if (channel := self._channels.get(number)) is not None:
                channel.protocol.data_received(contents)

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol.connection_lost`."""
        self._transport = None
        for channel in self._channels.values():
            channel.protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """As `asyncio.Protocol.pause_writing`."""
        for channel in self._channels.values():
            channel.protocol.pause_writing()

    def resume_writing(self) -> None:
        """As `asyncio.Protocol.resume_writing`."""
        for channel in self._channels.values():
            channel.protocol.resume_writing()

    def send(self, number: int, data: bytes) -> None:
        """Send bytes on a channel."""
        if self._transport is not None:
            self._transport.write(encode(number, data))

    def read(self, *, paused: bool) -> None:
        """Pause or resume reading from the socket."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()


class MuxChannel(asyncio.Transport):
    """One channel of a trunk, as the transport of its protocol. Closing it closes the trunk."""

    def __init__(self, trunk: Trunk, number: int) -> None:
        super().__init__()
        self._trunk = trunk
        self._number = number
        self.protocol = asyncio.Protocol()

    def bind(self, protocol: asyncio.Protocol) -> None:
        """Connect a protocol."""
        self.protocol = protocol
        protocol.connection_made(self)

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """As `asyncio.Transport.write`."""
        self._trunk.send(self._number, bytes(data))

    def is_closing(self) -> bool:
        """As `asyncio.Transport.is_closing`."""
        return self._trunk.is_closing

    def close(self) -> None:
        """As `asyncio.Transport.close`."""
        self._trunk.close()

    def abort(self) -> None:
        """As `asyncio.Transport.abort`."""
        self._trunk.close()

    def pause_reading(self) -> None:
        """As `asyncio.Transport.pause_reading`."""
        self._trunk.read(paused=True)

    def resume_reading(self) -> None:
        """As `asyncio.Transport.resume_reading`."""
        self._trunk.read(paused=False)
