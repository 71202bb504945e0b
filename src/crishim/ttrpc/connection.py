"""Both ends of a ttrpc connection as state machines (pure): bytes in, events out.

Pass what was read to `receive`, handle the events, and write what `to_send` returns; nothing else is sent. A call is a stream
with an odd number, each higher than the one before. The client handles frames as follows:

    frame                while the call is open     afterwards
    RESPONSE             `Answered`, the end        ignored
    DATA                 `DataArrived`              ignored
    DATA, REMOTE_CLOSED  `Answered` with OK         ignored
    too long a frame     `Answered`,                ignored
                         RESOURCE_EXHAUSTED

and the server:

    REQUEST              `Called`; with REMOTE_OPEN data frames follow, else the client sends no more
    DATA                 `DataArrived`, and `DataEnded` with REMOTE_CLOSED; refused on a stream that has ended
    too long a frame     refused: RESOURCE_EXHAUSTED
    stream number even, or not higher than the last: refused, INVALID_ARGUMENT

A refusal is a response on the stream's number; the connection stays open. Both ends ignore frames of unknown kinds. No input
is a protocol error that ends the connection.
"""

from typing import Final, TypeAlias

import attrs

from crishim._proto import UNDECODABLE
from crishim._proto import ttrpc_pb2 as pb
from crishim.errors import Code
from crishim.ttrpc.frames import MAX_DATA, Flag, Frame, FrameDecoder, Kind, Oversized, encode

__all__ = [
    "OK",
    "Answered",
    "Called",
    "ClientConnection",
    "ClientEvent",
    "DataArrived",
    "DataEnded",
    "Metadata",
    "Request",
    "ServerConnection",
    "ServerEvent",
    "Status",
]

_LAST_STREAM: Final = 2**32 - 1

Metadata: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of name and value, as in gRPC's metadata."""


@attrs.frozen
class Status:
    """The status of a call: the number of a gRPC code, which may be unknown, and a message."""

    code: int = 0
    message: str = ""


OK: Final = Status()
"""The status of success."""


@attrs.frozen(kw_only=True)
class Request:
    """A request: `service` with its package, `payload` the encoded message; `timeout` in nanoseconds, 0 for none."""

    service: str
    method: str
    payload: bytes = b""
    timeout: int = 0
    metadata: Metadata = ()


@attrs.frozen
class Called:
    """A call has arrived. With `more`, data frames follow."""

    stream: int
    request: Request
    more: bool


@attrs.frozen
class DataArrived:
    """A message on a stream."""

    stream: int
    payload: bytes


@attrs.frozen
class DataEnded:
    """The client sends no more on a stream."""

    stream: int


@attrs.frozen
class Answered:
    """A call has ended. `payload` is set with an OK from a RESPONSE frame."""

    stream: int
    status: Status
    payload: bytes = b""


ClientEvent: TypeAlias = DataArrived | Answered
"""What `ClientConnection` yields."""
ServerEvent: TypeAlias = Called | DataArrived | DataEnded
"""What `ServerConnection` yields."""


class ClientConnection:
    """The client's end of a connection."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._out: list[bytes] = []
        self._next = 1
        self._open: set[int] = set()

    def call(self, request: Request, *, more: bool = False) -> int:
        """Begin a call, and return its stream number. With `more`, `send_data` and `end_data` follow.

        Raises `ValueError` for a request that is longer than a frame may be, and `OverflowError` when the stream numbers are
        used up.
        """
        if self._next > _LAST_STREAM:
            raise OverflowError("this connection has no stream numbers left")
        message = pb.Request(
            service=request.service, method=request.method, payload=request.payload, timeout_nano=request.timeout
        )
        for key, value in request.metadata:
            message.metadata.add(key=key, value=value)
        data = message.SerializeToString()
        _bounded(data)
        stream = self._next
        self._next += 2
        self._open.add(stream)
        self._out.append(encode(stream, Kind.REQUEST, Flag.REMOTE_OPEN if more else Flag.NONE, data))
        return stream

    def send_data(self, stream: int, payload: bytes) -> None:
        """Send a message on an open stream. Raises `ValueError` for one that is too long."""
        _bounded(payload)
        self._out.append(encode(stream, Kind.DATA, Flag.REMOTE_OPEN, payload))

    def end_data(self, stream: int) -> None:
        """End the messages on a stream."""
        self._out.append(encode(stream, Kind.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA))

    def forget(self, stream: int) -> None:
        """Abandon a call: later frames of its stream are ignored. The protocol has no cancellation."""
        self._open.discard(stream)

    def to_send(self) -> bytes:
        """The bytes to write now."""
        out, self._out = self._out, []
        return b"".join(out)

    def receive(self, data: bytes) -> list[ClientEvent]:
        """The events in the server's bytes."""
        events: list[ClientEvent] = []
        for frame in self._decoder.feed(data):
            if frame.stream not in self._open:
                continue
            if isinstance(frame, Oversized):
                events.append(self._end(frame.stream, _too_long(frame)))
            elif frame.kind == Kind.RESPONSE:
                events.append(self._answer(frame))
            elif frame.kind == Kind.DATA:
                if not frame.flags & Flag.NO_DATA:
                    events.append(DataArrived(frame.stream, frame.data))
                if frame.flags & Flag.REMOTE_CLOSED:
                    events.append(self._end(frame.stream, OK))
        return events

    def _answer(self, frame: Frame) -> Answered:
        try:
            response = pb.Response.FromString(frame.data)
        except UNDECODABLE as error:
            return self._end(frame.stream, Status(Code.INTERNAL, f"an invalid response: {error}"))
        status = Status(response.status.code, response.status.message)
        return self._end(frame.stream, status, response.payload)

    def _end(self, stream: int, status: Status, payload: bytes = b"") -> Answered:
        self._open.discard(stream)
        return Answered(stream, status, payload)


class ServerConnection:
    """The server's end of a connection."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._out: list[bytes] = []
        self._last = 0
        self._open: dict[int, bool] = {}
        """The calls without a response, and whether more data may come."""

    def answer(self, stream: int, payload: bytes) -> None:
        """End a call with a response. One that is too long becomes RESOURCE_EXHAUSTED."""
        if self._open.pop(stream, None) is not None:
            self._respond(stream, pb.Response(payload=payload))

    def refuse(self, stream: int, status: Status) -> None:
        """End a call with a status that is not OK."""
        if self._open.pop(stream, None) is not None:
            self._refuse(stream, status)

    def send_data(self, stream: int, payload: bytes) -> None:
        """Send a message on an open stream. Raises `ValueError` for one that is too long."""
        _bounded(payload)
        if stream in self._open:
            self._out.append(encode(stream, Kind.DATA, Flag.NONE, payload))

    def end_data(self, stream: int) -> None:
        """End a call that was answered with a stream of messages."""
        if self._open.pop(stream, None) is not None:
            self._out.append(encode(stream, Kind.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA))

    def to_send(self) -> bytes:
        """The bytes to write now."""
        out, self._out = self._out, []
        return b"".join(out)

    def receive(self, data: bytes) -> list[ServerEvent]:
        """The events in the client's bytes. Refusals are returned by `to_send`."""
        events: list[ServerEvent] = []
        for frame in self._decoder.feed(data):
            if isinstance(frame, Oversized):
                self._open.pop(frame.stream, None)
                self._refuse(frame.stream, _too_long(frame))
            elif frame.kind == Kind.REQUEST:
                events.extend(self._request(frame))
            elif frame.kind == Kind.DATA:
                events.extend(self._data(frame))
        return events

    def _request(self, frame: Frame) -> list[ServerEvent]:
        if frame.stream % 2 != 1:
            self._refuse(frame.stream, Status(Code.INVALID_ARGUMENT, "client streams must have odd numbers"))
            return []
        if frame.stream <= self._last:
            self._refuse(frame.stream, Status(Code.INVALID_ARGUMENT, f"stream {frame.stream} comes after {self._last}"))
            return []
        self._last = frame.stream
        try:
            message = pb.Request.FromString(frame.data)
        except UNDECODABLE as error:
            self._refuse(frame.stream, Status(Code.INVALID_ARGUMENT, f"an invalid request: {error}"))
            return []
        request = Request(
            service=message.service,
            method=message.method,
            payload=message.payload,
            timeout=message.timeout_nano,
            metadata=tuple((entry.key, entry.value) for entry in message.metadata),
        )
        more = bool(frame.flags & Flag.REMOTE_OPEN)
        self._open[frame.stream] = more
        return [Called(frame.stream, request, more)]

    def _data(self, frame: Frame) -> list[ServerEvent]:
        if not self._open.get(frame.stream):
            if frame.stream not in self._open:
                self._refuse(frame.stream, Status(Code.INVALID_ARGUMENT, f"stream {frame.stream} has ended"))
            return []
        events: list[ServerEvent] = []
        if not frame.flags & Flag.NO_DATA:
            events.append(DataArrived(frame.stream, frame.data))
        if frame.flags & Flag.REMOTE_CLOSED:
            self._open[frame.stream] = False
            events.append(DataEnded(frame.stream))
        return events

    def _refuse(self, stream: int, status: Status) -> None:
        self._respond(stream, pb.Response(status=pb.Status(code=status.code, message=status.message)))

    def _respond(self, stream: int, response: pb.Response) -> None:
        data = response.SerializeToString()
        if len(data) > MAX_DATA:
            text = f"an answer of {len(data)} bytes; the maximum is {MAX_DATA}"
            data = pb.Response(status=pb.Status(code=Code.RESOURCE_EXHAUSTED, message=text)).SerializeToString()
        self._out.append(encode(stream, Kind.RESPONSE, Flag.NONE, data))


def _bounded(data: bytes) -> None:
    if len(data) > MAX_DATA:
        raise ValueError(f"a message of {len(data)} bytes; the maximum is {MAX_DATA}")


def _too_long(frame: Oversized) -> Status:
    return Status(Code.RESOURCE_EXHAUSTED, f"a message of {frame.length} bytes; the maximum is {MAX_DATA}")
