"""A SPDY/3.1 connection as Kubernetes' clients use it, for either side: bytes in, events out. See `events` for how
to drive it.

The states of a stream are in `TRANSITIONS`. In addition:

- **A stream of the peer is answered at once**, by an empty SYN_REPLY or, when `admit` names a status, by a reset:
  clients open their streams one by one and wait for each answer. Its data is accepted from then on.
- Its id must have the peer's parity (clients odd, servers even) and be greater than all before; otherwise that id is
  reset with a protocol error, and a stream that is open under it is lost. Streams beyond the limit are refused one
  by one. A closed stream with unconsumed bytes still counts.
- Data for a stream that is unknown, ended by the peer, or not accepted yet, is dropped, as are resets and headers for
  unknown ones.
- PING of the peer's parity is echoed; SETTINGS and WINDOW_UPDATE are ignored: **there is no flow control**, neither
  side waits.
- GOAWAY from the peer: it opens no more streams; the connection has ended once none is open.
- An invalid frame ends the connection: GOAWAY (protocol error) to the peer, `Ending.VIOLATION` to us.

Sources: SPDY/3 draft; the behaviour of moby/spdystream, which every client and server of Kubernetes uses.
"""

import enum
from collections.abc import Callable, Mapping

from crishim.streaming import spdy_frames as frames
from crishim.streaming.events import (
    ConnectionEnded,
    DataReceived,
    Ending,
    Event,
    Headers,
    HeadersReceived,
    ProtocolError,
    StreamAccepted,
    StreamEnded,
    StreamOpened,
    StreamReset,
)
from crishim.streaming.flow import Limits, Outbox, Unread

__all__ = ["TRANSITIONS", "Admit", "Role", "SpdySession", "State", "StreamSignal", "admit_all"]


class Role(enum.Enum):
    """Our side of the connection. The client's stream and ping ids are odd, the server's even."""

    CLIENT = 1
    SERVER = 0


class State(enum.Enum):
    """The state of a stream."""

    AWAITING_REPLY = "we opened it, the peer has not answered"
    OPEN = "both halves are open"
    PEER_ENDED = "only we send"
    WE_ENDED = "only the peer sends"
    CLOSED = "both ended, or reset"


class StreamSignal(enum.Enum):
    """The events that change a stream's state."""

    REPLY_RECEIVED = enum.auto()
    FIN_RECEIVED = enum.auto()
    FIN_SENT = enum.auto()
    RESET = enum.auto()  # in either direction


TRANSITIONS: Mapping[tuple[State, StreamSignal], State] = {
    (State.AWAITING_REPLY, StreamSignal.REPLY_RECEIVED): State.OPEN,
    (State.AWAITING_REPLY, StreamSignal.RESET): State.CLOSED,
    (State.OPEN, StreamSignal.FIN_RECEIVED): State.PEER_ENDED,
    (State.OPEN, StreamSignal.FIN_SENT): State.WE_ENDED,
    (State.OPEN, StreamSignal.RESET): State.CLOSED,
    (State.PEER_ENDED, StreamSignal.FIN_SENT): State.CLOSED,
    (State.PEER_ENDED, StreamSignal.RESET): State.CLOSED,
    (State.WE_ENDED, StreamSignal.FIN_RECEIVED): State.CLOSED,
    (State.WE_ENDED, StreamSignal.RESET): State.CLOSED,
}
"""All transitions; an event without one has no effect."""

_WE_SEND = frozenset({State.OPEN, State.PEER_ENDED})
_PEER_SENDS = frozenset({State.OPEN, State.WE_ENDED})

Admit = Callable[[StreamOpened], int | None]
"""Called for every stream of the peer, during `receive_bytes`: None accepts it, a `RstStatus` refuses it.
"""


def admit_all(_opened: StreamOpened) -> None:
    """Accept every stream."""


class SpdySession:
    """One connection. `admit` is called for each stream of the peer; it must not call back into the session."""

    def __init__(self, role: Role = Role.SERVER, *, limits: Limits | None = None, admit: Admit = admit_all) -> None:
        self._role = role
        self._limits = limits or Limits()
        self._admit = admit
        self._reader = frames.FrameReader(self._limits)
        self._writer = frames.FrameWriter()
        self._unread = Unread(self._limits)
        self._outbox = Outbox(self._limits)
        self._streams: dict[int, State] = {}
        self._last_peer_id = 0
        self._next_own_id = 1 if role is Role.CLIENT else 2
        self._peer_sent_goaway = False
        self.ended = False

    @property
    def wants_read(self) -> bool:
        """See `StreamCodec`."""
        return not (self._unread.full or self._outbox.owes_too_much)

    @property
    def wants_write(self) -> bool:
        """See `StreamCodec`."""
        return not self._outbox.full

    @property
    def unread(self) -> int:
        """See `StreamCodec`."""
        return self._unread.total

    @property
    def unsent(self) -> int:
        """See `StreamCodec`."""
        return self._outbox.unsent

    @property
    def buffered(self) -> int:
        """Bytes received of an incomplete frame."""
        return self._reader.buffered

    @property
    def streams(self) -> Mapping[int, State]:
        """The streams that exist, or have unconsumed bytes, by id."""
        return self._streams

    def start(self) -> list[Event]:
        """No bytes are sent before the first frame."""
        return []

    def receive_bytes(self, data: bytes) -> list[Event]:
        """See `StreamCodec`."""
        events: list[Event] = []
        if not self.ended:
            self._reader.feed(data)
        try:
            while not self.ended and (frame := self._reader.next_frame()) is not None:
                events += self._received(frame)
        except ProtocolError as error:
            self._outbox.owe(self._writer.encode(frames.GoAway(self._last_peer_id, frames.GoAwayStatus.PROTOCOL_ERROR)))
            events.append(self._end(Ending.VIOLATION, error.message))
        return events

    def receive_eof(self) -> list[Event]:
        """See `StreamCodec`."""
        return [] if self.ended else [self._end(Ending.LOST, "the peer closed the connection")]

    def data_to_send(self) -> list[bytes]:
        """See `StreamCodec`."""
        return self._outbox.take()

    def open_stream(self, headers: Headers) -> int:
        """Open a stream and return its id. It takes data after its `StreamAccepted`; a refusal is a
        `StreamReset`.
        """
        stream_id = self._next_own_id
        self._next_own_id += 2
        self._streams[stream_id] = State.AWAITING_REPLY
        self._outbox.put(self._writer.encode(frames.SynStream(stream_id, headers)))
        return stream_id

    def send_data(self, stream_id: int, data: bytes) -> bool:
        """See `StreamCodec`."""
        if self.ended or self._streams.get(stream_id) not in _WE_SEND:
            return False
        for start in range(0, len(data), frames.MAX_LENGTH):
            piece = data[start : start + frames.MAX_LENGTH]
            self._outbox.put(frames.encode_data_head(stream_id, len(piece)), piece)
        return True

    def end_stream(self, stream_id: int) -> None:
        """See `StreamCodec`."""
        if not self.ended and self._step(stream_id, StreamSignal.FIN_SENT):
            self._outbox.put(frames.encode_data_head(stream_id, 0, fin=True))

    def reset_stream(self, stream_id: int, status: int = frames.RstStatus.CANCEL) -> None:
        """See `StreamCodec`."""
        self._unread.forget(stream_id)
        if not self._step(stream_id, StreamSignal.RESET):
            self._drop_if_done(stream_id)
        elif not self.ended:
            self._outbox.put(self._writer.encode(frames.RstStream(stream_id, status)))

    def consumed(self, stream_id: int, count: int) -> None:
        """See `StreamCodec`."""
        self._unread.consume(stream_id, count)
        self._drop_if_done(stream_id)

    def close(self) -> None:
        """See `StreamCodec`."""
        if self.ended:
            return
        for stream_id in [key for key, state in self._streams.items() if state in _WE_SEND]:
            self.reset_stream(stream_id)
        self._outbox.put(self._writer.encode(frames.GoAway(self._last_peer_id)))
        self.ended = True

    def _received(self, frame: frames.Frame) -> list[Event]:
        match frame:
            case frames.Data(stream_id, data, fin):
                return self._received_data(stream_id, data, fin)
            case frames.SynStream():
                return self._received_stream(frame)
            case frames.SynReply(stream_id, headers, fin):
                return self._received_reply(stream_id, headers, fin)
            case frames.MoreHeaders(stream_id, headers, fin):
                known = self._streams.get(stream_id) in _PEER_SENDS
                return [HeadersReceived(stream_id, headers), *self._received_fin(stream_id, fin)] if known else []
            case frames.RstStream(stream_id, status):
                return self._lost(stream_id, status)
            case frames.Ping(ping_id):
                if ping_id % 2 != self._role.value:
                    self._outbox.owe(self._writer.encode(frame))
                return []
            case frames.GoAway():
                self._peer_sent_goaway = True
                return self._end_if_done()
            case frames.Settings() | frames.WindowUpdate():
                return []

    def _received_data(self, stream_id: int, data: bytes, fin: bool) -> list[Event]:
        if self._streams.get(stream_id) not in _PEER_SENDS:
            return []
        events: list[Event] = []
        if data:
            self._unread.add(stream_id, len(data))
            events.append(DataReceived(stream_id, data))
        return events + self._received_fin(stream_id, fin)

    def _received_fin(self, stream_id: int, fin: bool) -> list[Event]:
        if not fin or not self._step(stream_id, StreamSignal.FIN_RECEIVED):
            return []
        return [StreamEnded(stream_id), *self._end_if_done()]

    def _received_stream(self, frame: frames.SynStream) -> list[Event]:
        stream_id = frame.stream_id
        if stream_id % 2 == self._role.value or stream_id <= self._last_peer_id:
            self._refuse(stream_id, frames.RstStatus.PROTOCOL_ERROR)
            return self._lost(stream_id, frames.RstStatus.PROTOCOL_ERROR)
        self._last_peer_id = stream_id
        opened = StreamOpened(stream_id, frame.headers)
        if self._peer_sent_goaway or len(self._streams) >= self._limits.streams:
            refusal: int | None = frames.RstStatus.REFUSED_STREAM
        else:
            refusal = self._admit(opened)
        if refusal is not None:
            self._refuse(stream_id, refusal)
            return []
        self._streams[stream_id] = State.WE_ENDED if frame.unidirectional else State.OPEN
        if not frame.unidirectional:
            self._outbox.owe(self._writer.encode(frames.SynReply(stream_id)))
        return [opened, *self._received_fin(stream_id, frame.fin)]

    def _received_reply(self, stream_id: int, headers: Headers, fin: bool) -> list[Event]:
        if self._step(stream_id, StreamSignal.REPLY_RECEIVED):
            return [StreamAccepted(stream_id, headers), *self._received_fin(stream_id, fin)]
        if self._streams.get(stream_id, State.CLOSED) is State.CLOSED:
            return []
        self._refuse(stream_id, frames.RstStatus.PROTOCOL_ERROR)
        return self._lost(stream_id, frames.RstStatus.PROTOCOL_ERROR)

    def _refuse(self, stream_id: int, status: int) -> None:
        self._outbox.owe(self._writer.encode(frames.RstStream(stream_id, status)))

    def _lost(self, stream_id: int, status: int) -> list[Event]:
        if self._streams.get(stream_id, State.CLOSED) is State.CLOSED:
            return []
        self._unread.forget(stream_id)
        self._step(stream_id, StreamSignal.RESET)
        return [StreamReset(stream_id, status), *self._end_if_done()]

    def _step(self, stream_id: int, signal: StreamSignal) -> bool:
        """Apply a transition; False if the event has none in this state."""
        state = TRANSITIONS.get((self._streams.get(stream_id, State.CLOSED), signal))
        if state is None:
            return False
        self._streams[stream_id] = state
        self._drop_if_done(stream_id)
        return True

    def _drop_if_done(self, stream_id: int) -> None:
        if self._streams.get(stream_id) is State.CLOSED and not self._unread.count(stream_id):
            del self._streams[stream_id]

    def _end_if_done(self) -> list[Event]:
        if not self._peer_sent_goaway or any(state is not State.CLOSED for state in self._streams.values()):
            return []
        return [self._end(Ending.CLOSED, "the peer sent GOAWAY")]

    def _end(self, how: Ending, message: str) -> ConnectionEnded:
        self.ended = True
        return ConnectionEnded(how, message)
