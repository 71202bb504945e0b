"""The port-forward protocol of Kubernetes, `portforward.k8s.io`: which streams are a pair, and for which port.

For each forwarded connection a client opens two streams, first `error`, then `data`, with the headers `streamtype`, `port` (1
to 65535) and `requestid`. They are paired by their request id; without one, by their stream ids: the data stream's is the
error stream's plus 2. One connection carries many pairs, at once and in succession, to any ports.

Source: kubernetes/cri-streaming `pkg/streaming/portforward/httpstream.go`.
"""

import enum

import attrs

from crishim.streaming.channels import STREAM_TYPE
from crishim.streaming.events import ProtocolError, StreamOpened, header
from crishim.streaming.spdy_frames import RstStatus

PROTOCOL = "portforward.k8s.io"
TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
"""The WebSocket subprotocol whose messages carry SPDY/3.1."""

PORT = "port"
REQUEST_ID = "requestid"


class ForwardType(enum.StrEnum):
    """The two streams of a pair."""

    ERROR = "error"
    DATA = "data"


@attrs.frozen
class ForwardStream:
    """The headers of one stream. `request` is equal for both streams of a pair."""

    kind: ForwardType
    port: int
    request: str


@attrs.frozen
class Pair:
    """A connection to forward: its two streams, and the port of the data stream."""

    port: int
    data_id: int
    error_id: int


def decode_forward(opened: StreamOpened) -> ForwardStream:
    """Parse a stream's headers. Raises `ProtocolError` for an unknown type and for a missing or invalid port."""
    try:
        kind = ForwardType(header(opened.headers, STREAM_TYPE) or "")
    except ValueError:
        raise ProtocolError(f"port-forward stream {opened.stream_id} is neither data nor error") from None
    port = header(opened.headers, PORT) or ""
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 0xFFFF):
        raise ProtocolError(f"port {port[:16]!r} is not between 1 and 65535")
    by_id = opened.stream_id - 2 if kind is ForwardType.DATA else opened.stream_id
    return ForwardStream(kind, int(port), header(opened.headers, REQUEST_ID) or f"stream {by_id}")


def admit_forward(opened: StreamOpened) -> RstStatus | None:
    """For `SpdySession(admit=...)`: refuse streams that `decode_forward` cannot parse, before they are opened."""
    try:
        decode_forward(opened)
    except ProtocolError:
        return RstStatus.CANCEL
    return None


class Pairing:
    """Streams that wait for the other of their pair. `now` is a monotonic clock in seconds."""

    def __init__(self, timeout: float = 30.0) -> None:
        self._timeout = timeout
        self._waiting: dict[str, tuple[float, int, ForwardStream]] = {}  # in the order of their expiry

    def add(self, opened: StreamOpened, now: float) -> Pair | None:
        """A stream was opened: return the pair that it completes, or None while it waits.

        Raises `ProtocolError` for errors of `decode_forward` and for a second stream of the same type; only that stream is
        reset.
        """
        stream = decode_forward(opened)
        if stream.request not in self._waiting:
            self._waiting[stream.request] = (now + self._timeout, opened.stream_id, stream)
            return None
        _, other_id, other = self._waiting[stream.request]
        if other.kind is stream.kind:
            raise ProtocolError(f"request {stream.request[:64]!r} has two {stream.kind} streams")
        del self._waiting[stream.request]
        if stream.kind is ForwardType.DATA:
            return Pair(stream.port, data_id=opened.stream_id, error_id=other_id)
        return Pair(other.port, data_id=other_id, error_id=opened.stream_id)

    def forget(self, stream_id: int) -> None:
        """A stream was reset: drop it."""
        self._waiting = {key: entry for key, entry in self._waiting.items() if entry[1] != stream_id}

    def expired(self, now: float) -> list[int]:
        """The ids of streams that have waited too long, and are dropped here. The caller resets them."""
        late = [(key, entry[1]) for key, entry in self._waiting.items() if entry[0] <= now]
        for key, _ in late:
            del self._waiting[key]
        return [stream_id for _, stream_id in late]
