"""The events and the interface of the codecs.

A codec (`spdy.SpdySession`, `websocket.ChannelSession`, `websocket.TunnelSession`) is a state machine: it converts
received bytes to events, and actions to bytes to send. It does no I/O, reads no clock and draws no random numbers. All
three implement `StreamCodec`, so the code that connects streams to processes is independent of the codec.

The contract of the I/O layer around a codec:

1. `start()` once; then `receive_bytes(chunk)` for the received bytes, in order and in any split, and
   `receive_eof()` at their end. Handle the events of one call in order. Two splits of the same bytes give the same
   events, but for the borders between consecutive `DataReceived` of one stream.
2. After each call of any kind take `data_to_send()` and write all of it in order, as soon as the socket accepts it.
3. **Read the socket only while `wants_read`.** There is no flow control in these protocols: not reading is the only
   back-pressure. A codec counts the bytes of every `DataReceived` until `consumed(stream_id, count)` subtracts them, and the
   bytes of its responses to the peer until they are taken. `wants_read` turns false when one of its bounds is reached,
   so that a codec and its consumer never buffer more than the bounds in `flow.Limits` and one chunk. Store the bytes of
   unconsumed events, not the events.
4. **Call `send_data` only while `wants_write`.** It turns false when more than `Limits.unsent` bytes wait in
      `data_to_send()`; the process on the other side then blocks on its pipe.
5. `ConnectionEnded` is the last event; all streams end with it, without an event for each. It
   may leave last bytes in `data_to_send()`. `close()` has the same effect from our side, without an event.
6. After either, write what is left, shut down the sending side of the socket, and read to its end for a limited time before
   closing: a socket closed with unread bytes resets the connection, and the peer may lose the tail.
"""

import enum
from typing import ClassVar, Protocol, TypeAlias

import attrs

from crishim.errors import Code, CrishimError

__all__ = [
    "ConnectionEnded",
    "DataReceived",
    "Ending",
    "Event",
    "Headers",
    "HeadersReceived",
    "ProtocolError",
    "StreamAccepted",
    "StreamCodec",
    "StreamEnded",
    "StreamOpened",
    "StreamReset",
    "header",
]

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Names (lower case) and values, in the order of the wire. Text is Latin-1: every byte is one character."""


class ProtocolError(CrishimError):
    """The peer violated the protocol. The only error that a parser of this package raises for bytes of a peer."""

    code: ClassVar[Code] = Code.INVALID_ARGUMENT


def header(headers: Headers, name: str) -> str | None:
    """The value of the header `name` (lower case), or None. Several values are joined by NUL in one string, as in
    SPDY.
    """
    return next((value for key, value in headers if key == name), None)


@attrs.frozen
class StreamOpened:
    """The peer opened a stream, and it was accepted at once. WebSocket channels are reported as streams too, all of them
    by `start()`.
    """

    stream_id: int
    headers: Headers


@attrs.frozen
class StreamAccepted:
    """The peer accepted the stream that we opened; data may flow. Given only to the side that opens streams."""

    stream_id: int
    headers: Headers


@attrs.frozen
class HeadersReceived:
    """More headers for an open stream. Clients of Kubernetes do not send them; they can be ignored."""

    stream_id: int
    headers: Headers


@attrs.frozen
class DataReceived:
    """Bytes for a stream, never empty. They count against the bounds until `consumed`."""

    stream_id: int
    data: bytes


@attrs.frozen
class StreamEnded:
    """The peer has sent its last byte on this stream; we may still send."""

    stream_id: int


@attrs.frozen
class StreamReset:
    """The stream has ended in both directions: the peer reset it, or violated a rule that costs it the stream.

    `status` is SPDY's (1 protocol error, 3 refused, 5 cancel, ...). Received bytes that are not consumed no longer
    count.
    """

    stream_id: int
    status: int


class Ending(enum.Enum):
    """How a connection ended."""

    CLOSED = "closed"  # by the peer: GOAWAY and no stream left, or a WebSocket Close
    LOST = "lost"  # the socket ended without GOAWAY or Close
    VIOLATION = "violation"  # the peer violated the protocol; our GOAWAY or Close says so


@attrs.frozen
class ConnectionEnded:
    """The last event. `message` is for the log; it names the rule when `how` is a violation."""

    how: Ending
    message: str = ""


Event: TypeAlias = StreamOpened | StreamAccepted | HeadersReceived | DataReceived | StreamEnded | StreamReset | ConnectionEnded
"""What a codec yields."""


class StreamCodec(Protocol):
    """The interface of every codec: see the docstring of this module for the order of calls."""

    @property
    def wants_read(self) -> bool:
        """Whether the socket may be read: false while a limit on received bytes, or on pending responses, is reached."""

    @property
    def wants_write(self) -> bool:
        """Whether `send_data` may be called: false while too many bytes wait for `data_to_send`."""

    @property
    def ended(self) -> bool:
        """True after `ConnectionEnded` or `close()`: everything received later is ignored."""

    @property
    def unread(self) -> int:
        """Bytes passed on as `DataReceived` and not yet `consumed`."""

    @property
    def unsent(self) -> int:
        """Bytes that wait for `data_to_send`."""

    def start(self) -> list[Event]:
        """Begin, after the upgrade was answered. Called once, before anything else."""

    def receive_bytes(self, data: bytes) -> list[Event]:
        """Parse received bytes. Never raises because of `data`; a violation is a `ConnectionEnded`."""

    def receive_eof(self) -> list[Event]:
        """The socket has reached its end. Gives a `ConnectionEnded`, unless one was reported before."""

    def data_to_send(self) -> list[bytes]:
        """All bytes to be written now, in order, as chunks that are not copied. They are then dropped from the queue."""

    def send_data(self, stream_id: int, data: bytes) -> bool:
        """Queue bytes for a stream. False, with nothing queued, if our half of it is not open."""

    def end_stream(self, stream_id: int) -> None:
        """Close our half of a stream, after everything queued for it. Without effect if it is not open."""

    def reset_stream(self, stream_id: int, status: int = 5) -> None:
        """Reset a stream in both directions; its unconsumed bytes no longer count. Without effect if it does not exist."""

    def consumed(self, stream_id: int, count: int) -> None:
        """The consumer has processed `count` bytes of this stream's `DataReceived`. A count beyond the received bytes is
        capped.
        """

    def close(self) -> None:
        """Reset every stream whose sending half is open, and send GOAWAY or Close after everything queued."""
