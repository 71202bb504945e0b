"""The events and the interface of the codecs.

A codec (`spdy.SpdySession`, `websocket.ChannelSession`, `websocket.TunnelSession`) is a state machine: it converts
received bytes to events, and actions to bytes to send. It does no I/O, reads no clock and draws no random numbers. All
three implement `StreamCodec`, so the code that connects streams to processes is independent of the codec.

The contract of the I/O layer around a codec:

1. `start()` once; then `receive_bytes(chunk)` for what the socket gives, in order and in any split, and
   `receive_eof()` at its end. Handle the events of one call in order. Two splits of the same bytes give the same
   events, but for the borders between `DataReceived` of one stream that follow each other.
2. After each call of any kind take `data_to_send()` and write it, as soon as the socket can take more, in order and
   whole.
3. **Read the socket only while `wants_read`.** There is no flow control in these protocols: not reading is the only
   back-pressure. A codec counts the bytes of every `DataReceived` until `consumed(stream_id, count)` gives them back, and the
   bytes of its responses to the peer until they are taken. `wants_read` turns false when one of its bounds is reached,
   so that a codec and its consumer never buffer more than the bounds in `flow.Limits` and one chunk. Keep the bytes of
   unconsumed events, not the events.
4. **Call `send_data` only while `wants_write`.** It turns false when more than `Limits.unsent` bytes wait in
   `data_to_send()`; the process at the other side is then left to block on its pipe.
5. `ConnectionEnded` is the last event; no stream lives after it, and no further event is given for each of them. It
   may leave last bytes in `data_to_send()`. `close()` is the same from our side, without an event.
6. After either, write what is left, shut down the sending side of the socket, and read to its end for a while before
   closing: a socket closed over unread bytes resets the connection, and the peer may lose the tail.
"""

import enum
from typing import ClassVar, Protocol, TypeAlias

import attrs

from crishim.errors import Code, CrishimError

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Names (lower case) and values, in the order of the wire. Text is Latin-1: every byte is one character."""


class ProtocolError(CrishimError):
    """The peer broke the protocol. The only error that bytes of a peer can raise from a parser of this room."""

    code: ClassVar[Code] = Code.INVALID_ARGUMENT


def header(headers: Headers, name: str) -> str | None:
    """The value of the header `name` (lower case), or None. Several values stand in one text, joined by NUL, as SPDY
    has them.
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
    """More headers for an open stream. No client of Kubernetes sends them; they can be ignored."""

    stream_id: int
    headers: Headers


@attrs.frozen
class DataReceived:
    """Bytes for a stream, never empty. They count against the bounds until `consumed`."""

    stream_id: int
    data: bytes


@attrs.frozen
class StreamEnded:
    """The peer has sent its last byte on this stream; ours may go on."""

    stream_id: int


@attrs.frozen
class StreamReset:
    """The stream is gone in both directions: the peer reset it, or broke a rule that costs it the stream.

    `status` is SPDY's (1 protocol error, 3 refused, 5 cancel, ...). What was received and not consumed counts no
    longer.
    """

    stream_id: int
    status: int


class Ending(enum.Enum):
    """How a connection ended."""

    CLOSED = "closed"  # the peer said goodbye: GOAWAY and no stream left, or a WebSocket Close
    LOST = "lost"  # the socket ended without a goodbye
    VIOLATION = "violation"  # the peer broke the protocol; our farewell says so


@attrs.frozen
class ConnectionEnded:
    """The last event. `message` is for the log; it says what was broken when `how` is a violation."""

    how: Ending
    message: str = ""


Event: TypeAlias = StreamOpened | StreamAccepted | HeadersReceived | DataReceived | StreamEnded | StreamReset | ConnectionEnded


class StreamCodec(Protocol):
    """The face of every codec: see the head of this module for who calls what and when."""

    @property
    def wants_read(self) -> bool:
        """Whether the socket may be read: false while a bound on what was received, or on answers owed, is reached."""

    @property
    def wants_write(self) -> bool:
        """Whether `send_data` may be called: false while too many bytes wait to be taken by `data_to_send`."""

    @property
    def ended(self) -> bool:
        """True after `ConnectionEnded` or `close()`: everything received from now on is ignored."""

    @property
    def unread(self) -> int:
        """Bytes given as `DataReceived` and not yet given back by `consumed`."""

    @property
    def unsent(self) -> int:
        """Bytes that wait for `data_to_send`."""

    def start(self) -> list[Event]:
        """Begin, right after the upgrade was answered. Called once, before anything else."""

    def receive_bytes(self, data: bytes) -> list[Event]:
        """Take what the socket gave. Never raises for anything in `data`; a violation is a `ConnectionEnded`."""

    def receive_eof(self) -> list[Event]:
        """The socket gave its end. A `ConnectionEnded`, unless that was reported before."""

    def data_to_send(self) -> list[bytes]:
        """Everything that is to be written now, in order, as chunks that are not copied. They are handed over, and
        forgotten.
        """

    def send_data(self, stream_id: int, data: bytes) -> bool:
        """Queue bytes for a stream. False, and nothing queued, when our half of it is not open (any more)."""

    def end_stream(self, stream_id: int) -> None:
        """Close our half of a stream, behind everything queued for it. Without effect when it is not open."""

    def reset_stream(self, stream_id: int, status: int = 5) -> None:
        """Give a stream up in both directions; its unconsumed bytes count no longer. Without effect when it is gone."""

    def consumed(self, stream_id: int, count: int) -> None:
        """`count` bytes of this stream's `DataReceived` have left the consumer's memory. More than were given are not
        counted.
        """

    def close(self) -> None:
        """Give up every stream whose sending half is open, and say goodbye behind everything queued."""
