"""Memory limits: the bytes that are buffered for a connection.

Neither SPDY as Kubernetes uses it nor its WebSocket protocols have flow control, so the only back-pressure is not to read the
socket. The counters here decide when; see rules 3 and 4 of `events`.
"""

import attrs

__all__ = ["Limits"]


@attrs.frozen(kw_only=True)
class Limits:
    """The limits of one connection, in bytes and streams. The defaults fit exec, attach and port-forward.

    `stream_unread`, `unread`: received and not consumed, for one stream and for all; reaching either stops reading the socket,
    and the chunk that reaches it still counts, so the memory used is at most the limit and one chunk. `unsent`: queued by
    `send_data` and not yet taken. `owed`: queued as responses to the peer (replies, pings, resets) and not yet taken.
    `streams`: open at once; further ones are refused. `control_frame`: the longest frame that is buffered whole.
    `header_block`: one block of headers, inflated.
    """

    stream_unread: int = 256 * 1024
    unread: int = 1024 * 1024
    unsent: int = 256 * 1024
    owed: int = 64 * 1024
    streams: int = 1024
    control_frame: int = 16 * 1024
    header_block: int = 16 * 1024


class Unread:
    """Bytes passed to the consumer and not yet consumed, by stream."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._counts: dict[int, int] = {}
        self._crowded: set[int] = set()
        self.total = 0

    @property
    def full(self) -> bool:
        """Whether a stream, or all together, have reached the limit."""
        return bool(self._crowded) or self.total >= self._limits.unread

    def count(self, stream_id: int) -> int:
        """The bytes of one stream."""
        return self._counts.get(stream_id, 0)

    def add(self, stream_id: int, count: int) -> None:
        """`count` more bytes were passed on."""
        self._set(stream_id, self.count(stream_id) + count)

    def consume(self, stream_id: int, count: int) -> None:
        """`count` bytes, at most those passed on, were consumed."""
        self._set(stream_id, max(0, self.count(stream_id) - max(0, count)))

    def forget(self, stream_id: int) -> None:
        """The stream was dropped with its bytes."""
        self._set(stream_id, 0)

    def _set(self, stream_id: int, count: int) -> None:
        self.total += count - self.count(stream_id)
        if count:
            self._counts[stream_id] = count
        else:
            self._counts.pop(stream_id, None)
        if count >= self._limits.stream_unread:
            self._crowded.add(stream_id)
        else:
            self._crowded.discard(stream_id)


class Outbox:
    """Chunks that wait to be written, in order. Chunks are never copied or joined."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._chunks: list[bytes] = []
        self._owed = 0
        self.unsent = 0

    @property
    def full(self) -> bool:
        """Whether no more data should be queued."""
        return self.unsent >= self._limits.unsent

    @property
    def owes_too_much(self) -> bool:
        """Whether the peer sends requests faster than it takes the responses."""
        return self._owed >= self._limits.owed

    def put(self, *chunks: bytes) -> None:
        """Queue data."""
        self._chunks += chunks
        self.unsent += sum(map(len, chunks))

    def owe(self, chunk: bytes) -> None:
        """Queue a response that the peer has caused."""
        self.put(chunk)
        self._owed += len(chunk)

    def take(self) -> list[bytes]:
        """Take everything queued."""
        chunks, self._chunks = self._chunks, []
        self.unsent = self._owed = 0
        return chunks
