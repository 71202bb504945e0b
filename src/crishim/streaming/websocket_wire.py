"""WebSocket messages, server's end, on wsproto: bytes in, pieces of messages out. The protocols on top are in
`websocket`.

Frames may have any length and messages any number of frames: payloads are handed on in pieces as they arrive, nothing
is gathered. Pings are answered; a Close is answered and ends the connection; what RFC 6455 forbids ends it with the
Close that fits.
"""

from collections.abc import Iterator

import attrs
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from crishim.streaming.events import ConnectionEnded, Ending, Event
from crishim.streaming.flow import Limits, Outbox

_SLICE = 16 * 1024  # wsproto moves what is left of its buffer after each frame, so it gets little at a time


@attrs.frozen
class Piece:
    """A part of a message, and whether it is the last."""

    data: bytes
    last: bool
    is_text: bool


class WebSocketWire:
    """One connection. `outbox` holds what is to be written; `ended` turns true for good."""

    def __init__(self, limits: Limits) -> None:
        self._websocket = Connection(ConnectionType.SERVER)
        self.outbox = Outbox(limits)
        self.ended = False

    def pieces(self, data: bytes) -> Iterator[Piece | ConnectionEnded]:
        """What the bytes say. Nothing comes after `ended` turned true, be it by the peer or by whoever handles a
        piece.
        """
        for start in range(0, len(data), _SLICE):
            if not self.ended:
                self._websocket.receive_data(data[start : start + _SLICE])
                yield from self._pieces()

    def eof(self) -> list[Event]:
        """The socket ended."""
        if self.ended:
            return []
        self.ended = True
        return [ConnectionEnded(Ending.LOST, "the peer closed the connection without a WebSocket Close")]

    def send(self, payload: bytes | str) -> None:
        """One message, binary or text."""
        message = TextMessage(payload) if isinstance(payload, str) else BytesMessage(payload)
        self.outbox.put(bytes(self._websocket.send(message)))

    def close(self, code: int, reason: str | None = None) -> None:
        """Say Close, once."""
        if not self.ended:
            self.ended = True
            self.outbox.put(bytes(self._websocket.send(CloseConnection(code, reason))))

    def violated(self, message: str, code: int) -> ConnectionEnded:
        """The peer broke a rule: tell both sides."""
        self.close(code, message)
        return ConnectionEnded(Ending.VIOLATION, message)

    def _pieces(self) -> Iterator[Piece | ConnectionEnded]:
        for event in self._websocket.events():
            if self.ended:
                return
            match event:
                case BytesMessage():
                    yield Piece(bytes(event.data), event.message_finished, is_text=False)
                case TextMessage():
                    yield Piece(event.data.encode(), event.message_finished, is_text=True)
                case Ping():
                    self.outbox.owe(self._websocket.send(event.response()))
                case CloseConnection():
                    yield self._closed(event)

    def _closed(self, event: CloseConnection) -> ConnectionEnded:
        reason = event.reason or ""
        if self._websocket.state is ConnectionState.OPEN:  # wsproto tells a frame it cannot read as a Close that never came
            return self.violated(reason, event.code)
        self.close(event.code)
        return ConnectionEnded(Ending.CLOSED, f"the peer closed the WebSocket: {int(event.code)} {reason}".rstrip())
