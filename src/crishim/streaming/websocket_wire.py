"""The server's side of WebSocket messages, on wsproto: bytes in, pieces of messages out. The protocols on top are in
`websocket`.

Frames may have any length and messages any number of frames: payloads are passed on in pieces as they arrive, and not
collected. Pings are answered; a Close is answered and ends the connection; a violation of RFC 6455 ends it with the
corresponding Close.
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
    """One connection. `outbox` has the bytes to send; `ended` becomes true once, at the end of the connection."""

    def __init__(self, limits: Limits) -> None:
        self._websocket = Connection(ConnectionType.SERVER)
        self.outbox = Outbox(limits)
        self.ended = False

    def pieces(self, data: bytes) -> Iterator[Piece | ConnectionEnded]:
        """Parse bytes. Nothing is yielded after `ended` has become true, be it by the peer or by the code that handles a
        piece.
        """
        for start in range(0, len(data), _SLICE):
            if not self.ended:
                self._websocket.receive_data(data[start : start + _SLICE])
                yield from self._pieces()

    def eof(self) -> list[Event]:
        """The socket has reached its end."""
        if self.ended:
            return []
        self.ended = True
        return [ConnectionEnded(Ending.LOST, "the peer closed the connection without a WebSocket Close")]

    def send(self, payload: bytes | str) -> None:
        """Queue one message, binary or text."""
        message = TextMessage(payload) if isinstance(payload, str) else BytesMessage(payload)
        self.outbox.put(bytes(self._websocket.send(message)))

    def close(self, code: int, reason: str | None = None) -> None:
        """Queue a Close, once."""
        if not self.ended:
            self.ended = True
            self.outbox.put(bytes(self._websocket.send(CloseConnection(code, reason))))

    def violated(self, message: str, code: int) -> ConnectionEnded:
        """The peer violated the protocol: queue a Close for it, and return the event."""
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
        if self._websocket.state is ConnectionState.OPEN:  # wsproto reports an invalid frame as a Close that was not received
            return self.violated(reason, event.code)
        self.close(event.code)
        return ConnectionEnded(Ending.CLOSED, f"the peer closed the WebSocket: {int(event.code)} {reason}".rstrip())
