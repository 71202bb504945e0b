"""The server's side of Kubernetes' streams over WebSocket: bytes in, events out, with the interface of `SpdySession`. See
`events`.

Two variants, chosen by the subprotocol (`upgrade.choose`):

- `ChannelSession`: every message is one channel byte and a payload (in the base64 protocols a digit and base64, as
    text). The channels are fixed by the request, so `start()` reports all of them as opened streams, with the headers a
    SPDY client would send; the stream id is the channel's number. Created by `remote_command_session` and
    `port_forward_session`.
- `TunnelSession`: the messages contain the bytes of a SPDY/3.1 connection, split anywhere.

Limits of channels: the server cannot end or reset one. `end_stream` and `reset_stream` only stop our half, and
the client learns it from `close()`, which is the WebSocket Close 1000. The client ends a channel by v5's message `FF
<channel>`, and otherwise only with the connection. Messages for channels that were not requested, or that only we
write, are dropped; empty ones are skipped.

A violation of the subprotocol ends the connection with Close 1002, text in a tunnel with 1003; for violations of RFC 6455
see `websocket_wire`.

Sources: kubernetes/cri-streaming `remotecommand/websocket.go` and `portforward/websocket.go`, k8s.io/streaming
`wsstream`, client-go `portforward/tunneling_connection.go`.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence

import attrs
from wsproto.frame_protocol import CloseReason

from crishim.streaming.channels import CHANNELS, CLOSE_SIGNAL, STREAM_TYPE, ChannelProtocol, StreamType
from crishim.streaming.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    Headers,
    ProtocolError,
    StreamEnded,
    StreamOpened,
)
from crishim.streaming.flow import Limits, Unread
from crishim.streaming.portforward import PORT, REQUEST_ID, ForwardType
from crishim.streaming.spdy import Admit, Role, SpdySession, admit_all
from crishim.streaming.websocket_wire import Piece, WebSocketWire

__all__ = ["Channel", "ChannelSession", "TunnelSession", "port_forward_session", "remote_command_session"]


@attrs.frozen
class Channel:
    """A channel of a `ChannelSession`. `greeting` is a payload that is sent at once, also when it is empty."""

    number: int
    headers: Headers
    client_writes: bool = False
    server_writes: bool = False
    greeting: bytes | None = None


def remote_command_session(
    protocol: ChannelProtocol, streams: Iterable[StreamType], *, limits: Limits | None = None
) -> "ChannelSession":
    """The session of an exec or attach with these streams (`channels.expected_streams`).

    An empty message on the first channel that we write (stdout, else stderr, else error) signals the client that it may
    begin.
    """
    wanted = frozenset(streams)
    greeter = next(stream for stream in (StreamType.STDOUT, StreamType.STDERR, StreamType.ERROR) if stream in wanted)
    from_client = {StreamType.STDIN, StreamType.RESIZE}
    table = [
        Channel(
            CHANNELS[stream],
            ((STREAM_TYPE, stream.value),),
            client_writes=stream in from_client,
            server_writes=stream not in from_client,
            greeting=b"" if stream is greeter else None,
        )
        for stream in StreamType
        if stream in wanted
    ]
    return ChannelSession(table, is_base64=protocol.base64, has_close_signal=protocol.has_close_signal, limits=limits)


def port_forward_session(protocol: ChannelProtocol, ports: Sequence[int], *, limits: Limits | None = None) -> "ChannelSession":
    """The session of a port-forward to these ports (1 to 65535), one connection each: channel 2i is the i-th port's
    data, 2i + 1 its error. Each begins with the port, 16 bits, little-endian. At most 127 ports have channels.
    """
    table = []
    for index, port in enumerate(ports):
        for kind, number in ((ForwardType.ERROR, 2 * index + 1), (ForwardType.DATA, 2 * index)):
            headers = ((STREAM_TYPE, kind.value), (PORT, str(port)), (REQUEST_ID, str(index)))
            from_client = kind is ForwardType.DATA
            table.append(Channel(number, headers, from_client, server_writes=True, greeting=port.to_bytes(2, "little")))
    return ChannelSession(table, is_base64=protocol.base64, has_close_signal=protocol.has_close_signal, limits=limits)


class ChannelSession:
    """One connection of numbered channels."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        is_base64: bool = False,
        has_close_signal: bool = False,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self._wire = WebSocketWire(limits)
        self._unread = Unread(limits)
        self._channels = tuple(channels)
        self._numbers = frozenset(channel.number for channel in channels)
        self._client_writes = {channel.number for channel in channels if channel.client_writes}
        self._server_writes = {channel.number for channel in channels if channel.server_writes}
        self._has_close_signal = has_close_signal
        self._is_base64 = is_base64
        self._base64 = _Base64Decoder()
        self._channel: int | None = None  # of the current message, once its first byte was received
        self._signal = b""  # the part of a close signal received so far

    @property
    def wants_read(self) -> bool:
        """See `StreamCodec`."""
        return not (self._unread.full or self._wire.outbox.owes_too_much)

    @property
    def wants_write(self) -> bool:
        """See `StreamCodec`."""
        return not self._wire.outbox.full

    @property
    def ended(self) -> bool:
        """See `StreamCodec`."""
        return self._wire.ended

    @property
    def unread(self) -> int:
        """See `StreamCodec`."""
        return self._unread.total

    @property
    def unsent(self) -> int:
        """See `StreamCodec`."""
        return self._wire.outbox.unsent

    def start(self) -> list[Event]:
        """Every channel as an opened stream; the greetings are queued."""
        for channel in self._channels:
            if channel.greeting is not None:
                self._send(channel.number, channel.greeting)
        return [StreamOpened(channel.number, channel.headers) for channel in self._channels]

    def receive_bytes(self, data: bytes) -> list[Event]:
        """See `StreamCodec`."""
        events: list[Event] = []
        for piece in self._wire.pieces(data):
            if isinstance(piece, ConnectionEnded):
                events.append(piece)
                continue
            try:
                events += self._received(piece)
            except ProtocolError as error:
                events.append(self._wire.violated(error.message, CloseReason.PROTOCOL_ERROR))
        return events

    def receive_eof(self) -> list[Event]:
        """See `StreamCodec`."""
        return self._wire.eof()

    def data_to_send(self) -> list[bytes]:
        """See `StreamCodec`."""
        return self._wire.outbox.take()

    def send_data(self, stream_id: int, data: bytes) -> bool:
        """See `StreamCodec`."""
        if self.ended or stream_id not in self._server_writes:
            return False
        if data:
            self._send(stream_id, data)
        return True

    def end_stream(self, stream_id: int) -> None:
        """See `StreamCodec`, and the docstring of this module."""
        self._server_writes.discard(stream_id)

    def reset_stream(self, stream_id: int, status: int = 5) -> None:  # noqa: ARG002 - WebSocket has no place for the status
        """See `StreamCodec`, and the docstring of this module."""
        self._server_writes.discard(stream_id)
        self._client_writes.discard(stream_id)
        self._unread.forget(stream_id)

    def consumed(self, stream_id: int, count: int) -> None:
        """See `StreamCodec`."""
        self._unread.consume(stream_id, count)

    def close(self) -> None:
        """See `StreamCodec`."""
        self._wire.close(CloseReason.NORMAL_CLOSURE)

    def _send(self, number: int, payload: bytes) -> None:
        if self._is_base64:
            self._wire.send(chr(ord("0") + number) + base64.b64encode(payload).decode())
        else:
            self._wire.send(bytes((number,)) + payload)

    def _received(self, piece: Piece) -> list[Event]:
        events: list[Event] = []
        data = piece.data
        if self._channel is None and data:
            self._channel = data[0] - ord("0") if self._is_base64 else data[0]
            data = data[1:]
        if self._channel == CLOSE_SIGNAL and self._has_close_signal:
            self._signal = (self._signal + data)[:2]
            if piece.last:
                events = self._ended_by_client(self._signal)
        elif self._channel in self._client_writes:
            payload = self._base64.feed(data, last=piece.last) if self._is_base64 else data
            if payload:
                self._unread.add(self._channel, len(payload))
                events = [DataReceived(self._channel, payload)]
        if piece.last:
            self._channel = None
            self._signal = b""
            self._base64 = _Base64Decoder()
        return events

    def _ended_by_client(self, signal: bytes) -> list[Event]:
        if len(signal) != 1 or signal[0] not in self._numbers:
            raise ProtocolError("a close signal that does not name one channel")
        number = signal[0]
        if number not in self._client_writes:
            return []
        self._client_writes.remove(number)
        return [StreamEnded(number)]


class TunnelSession:
    """A SPDY/3.1 connection in binary messages. Its events are those of `SpdySession`; a Close of the WebSocket is
    its end.
    """

    def __init__(self, *, limits: Limits | None = None, admit: Admit = admit_all) -> None:
        limits = limits or Limits()
        self._wire = WebSocketWire(limits)
        self._spdy = SpdySession(Role.SERVER, limits=limits, admit=admit)

    @property
    def wants_read(self) -> bool:
        """See `StreamCodec`."""
        return self._spdy.wants_read and not self._wire.outbox.owes_too_much

    @property
    def wants_write(self) -> bool:
        """See `StreamCodec`."""
        return self._spdy.wants_write

    @property
    def ended(self) -> bool:
        """See `StreamCodec`."""
        return self._wire.ended

    @property
    def unread(self) -> int:
        """See `StreamCodec`."""
        return self._spdy.unread

    @property
    def unsent(self) -> int:
        """See `StreamCodec`. Without the few bytes of WebSocket framing that are still to be added."""
        return self._spdy.unsent + self._wire.outbox.unsent

    def start(self) -> list[Event]:
        """No bytes are sent before the first frame."""
        return self._spdy.start()

    def receive_bytes(self, data: bytes) -> list[Event]:
        """See `StreamCodec`."""
        events: list[Event] = []
        for piece in self._wire.pieces(data):
            if isinstance(piece, ConnectionEnded):
                events.append(piece)
            elif piece.is_text:
                events.append(self._wire.violated("a tunnel has binary messages only", CloseReason.UNSUPPORTED_DATA))
            else:
                events += self._spdy.receive_bytes(piece.data)
                if self._spdy.ended:
                    self._close()
        self._drop_if_ended()
        return events

    def receive_eof(self) -> list[Event]:
        """See `StreamCodec`."""
        events = self._wire.eof()
        self._drop_if_ended()
        return events

    def data_to_send(self) -> list[bytes]:
        """See `StreamCodec`."""
        self._flush()
        return self._wire.outbox.take()

    def send_data(self, stream_id: int, data: bytes) -> bool:
        """See `StreamCodec`."""
        return not self.ended and self._spdy.send_data(stream_id, data)

    def end_stream(self, stream_id: int) -> None:
        """See `StreamCodec`."""
        self._spdy.end_stream(stream_id)

    def reset_stream(self, stream_id: int, status: int = 5) -> None:
        """See `StreamCodec`."""
        self._spdy.reset_stream(stream_id, status)

    def consumed(self, stream_id: int, count: int) -> None:
        """See `StreamCodec`."""
        self._spdy.consumed(stream_id, count)

    def close(self) -> None:
        """See `StreamCodec`."""
        self._spdy.close()
        self._close()

    def _flush(self) -> None:
        if not self.ended and (chunks := self._spdy.data_to_send()):
            self._wire.send(b"".join(chunks))

    def _drop_if_ended(self) -> None:
        """SPDY's unsent bytes are lost with the WebSocket, and it reports no further events."""
        if self.ended:
            self._spdy.receive_eof()
            self._spdy.data_to_send()

    def _close(self) -> None:
        self._flush()
        self._wire.close(CloseReason.NORMAL_CLOSURE)


class _Base64Decoder:
    """The payload of one message, decoded as its characters arrive."""

    def __init__(self) -> None:
        self._rest = b""
        self._padded = False

    def feed(self, text: bytes, *, last: bool) -> bytes:
        """The bytes that these characters complete. Raises `ProtocolError` for anything but standard base64 with padding."""
        text = self._rest + text
        usable = len(text) - len(text) % 4
        text, self._rest = text[:usable], text[usable:]
        if (text and self._padded) or (last and self._rest):
            raise ProtocolError("base64 that is incomplete, or continues after its padding")
        self._padded = text.endswith(b"=")
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ProtocolError(f"base64: {error}") from error
