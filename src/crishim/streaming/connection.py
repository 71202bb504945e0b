"""One upgraded connection: a codec on a transport, and its streams as readers and writers.

`StreamConnection` implements the rules in the docstring of `events`; its user gets `Stream`s, and calls of a `StreamHandler`
in order, from the event loop, never from inside one of its own calls. Memory is limited in both directions: received data by
the codec (unread data stops the reading of the socket), sent data by the codec's `unsent` and the transport's buffer
(`Stream.write` waits for room).

A connection is ended by the peer, by `close()`, or after `Timeouts.idle` seconds without any data. In any case everything that
was written before is sent, and the socket is read to its end before it is closed, so that a slow client still gets the last
byte: it is aborted only when it takes nothing for `Timeouts.idle` seconds, or, after everything was sent, does not close
within `Timeouts.linger`.
"""

import asyncio
import collections
import fcntl
import logging
import struct
import termios
from typing import Protocol

import attrs

from crishim.streaming.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    Headers,
    StreamCodec,
    StreamEnded,
    StreamOpened,
    StreamReset,
)

__all__ = ["Stream", "StreamConnection", "StreamHandler", "Timeouts"]

_log = logging.getLogger(__name__)

_PIECE = 64 * 1024
_SMALL = 4 * 1024  # smaller received pieces are joined, so that many tiny frames cost no more than their bytes


@attrs.frozen(kw_only=True)
class Timeouts:
    """Timeouts in seconds. `head`: for a client to send its HTTP request. `creation`: to open the streams of a request, and
    both streams of a forwarded connection. `idle`: without any data. `half_closed`: for a forwarded connection that has ended
    in one direction and is silent in the other. `linger`: for a client to close after everything was sent.
    """

    head: float = 10.0
    creation: float = 30.0
    idle: float = 4 * 3600.0
    half_closed: float = 300.0
    linger: float = 10.0


class StreamHandler(Protocol):
    """Receives the events of a connection."""

    def opened(self, stream: "Stream") -> None:
        """The client opened a stream."""

    def reset(self, stream: "Stream") -> None:
        """The client reset a stream."""

    def idle(self) -> None:
        """The connection will be closed for being idle; last messages may be `put` on its streams."""


class Stream:
    """One stream of a connection: a `ByteReader` and a `ByteWriter`."""

    def __init__(self, connection: "StreamConnection", stream_id: int, headers: Headers) -> None:
        self.id = stream_id
        self.headers = headers
        self.lost = False
        """Whether it was reset, by either side, or ended with its connection. Data received before the end of a connection can
        still be read; data received before a reset is dropped.
        """
        self._connection = connection
        self._pieces: collections.deque[bytes | bytearray] = collections.deque()
        self._reader: asyncio.Future[None] | None = None
        self._peer_ended = False
        self._we_ended = False
        self._discards = False

    @property
    def done(self) -> bool:
        """Whether both directions have ended."""
        return self.lost or (self._peer_ended and self._we_ended)

    async def read(self) -> bytes:
        """The next piece; empty when the client has ended its half, or the stream is `lost`. One reader at a time."""
        while not self._pieces:
            if self._peer_ended or self.lost:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        piece = bytes(self._pieces.popleft())
        self._connection.consumed(self, len(piece))
        return piece

    async def write(self, data: bytes) -> None:
        """Send a piece; return when there is room for another. Raises `BrokenPipeError` if our half is not open."""
        if len(data) <= _PIECE:
            await self._connection.send(self, data)
        else:
            for start in range(0, len(data), _PIECE):
                await self._connection.send(self, data[start : start + _PIECE])

    def put(self, data: bytes) -> None:
        """Send a short last message without waiting for room; does nothing if our half is not open."""
        self._connection.put(self, data)

    def end(self) -> None:
        """End our half, after everything written."""
        self._we_ended = True
        self._connection.end_stream(self)

    def reset(self) -> None:
        """Reset the stream in both directions."""
        if not self.lost:
            self._connection.reset_stream(self)
            self.drop()

    def discard(self) -> None:
        """Discard what the client sends, since nothing reads it."""
        self._discards = True
        for piece in self._pieces:
            self._connection.consumed(self, len(piece))
        self._pieces.clear()

    def feed(self, data: bytes) -> None:
        """The connection received data."""
        if self._discards:
            self._connection.consumed(self, len(data))
            return
        last = self._pieces[-1] if self._pieces else None
        if len(data) >= _SMALL:
            self._pieces.append(data)
        elif isinstance(last, bytearray) and len(last) < _PIECE:
            last += data
        else:
            self._pieces.append(bytearray(data))
        self._wake()

    def feed_end(self) -> None:
        """The connection received the end."""
        self._peer_ended = True
        self._wake()

    def lose(self) -> None:
        """The stream is lost with its connection."""
        self.lost = True
        self._wake()

    def drop(self) -> None:
        """The stream was reset."""
        self._pieces.clear()
        self.lose()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class StreamConnection(asyncio.BufferedProtocol):
    """A codec on a transport. `buffer` is the transport's read buffer; all connections of a loop may share one."""

    def __init__(self, codec: StreamCodec, handler: StreamHandler, timeouts: Timeouts, buffer: bytearray) -> None:
        self._loop = asyncio.get_running_loop()
        self._codec = codec
        self._handler = handler
        self._timeouts = timeouts
        self._buffer = memoryview(buffer)
        self._streams: dict[int, Stream] = {}
        self._transport: asyncio.Transport
        self._reading = True
        self._blocked = False  # the transport has enough to write for now
        self._write_lock = asyncio.Lock()  # the writer that waits for room; the others queue behind it
        self._room: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._last_activity = self._loop.time()
        self._idle_timer = self._loop.call_later(timeouts.idle, self._check_idle)
        self._closing: asyncio.Task[None] | None = None
        self.received = self.sent = 0
        """Bytes of the connection since its upgrade, frames included."""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed."""
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when every stream has ended."""

    @property
    def buffered(self) -> int:
        """Bytes buffered for this connection: received and not read, written and not passed to the kernel."""
        return self._codec.unread + self._codec.unsent + self._transport.get_write_buffer_size()

    def begin(self, transport: asyncio.Transport, received: bytes) -> None:
        """Take over a transport on which the upgrade was answered; `received` are bytes after the request."""
        self._transport = transport
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=_PIECE)
        self._handle(self._codec.start())
        if received:
            self.received += len(received)
            self._handle(self._codec.receive_bytes(received))

    async def close(self) -> None:
        """End every stream, and return when the socket is closed; see the docstring of this module."""
        self._end()
        assert self._closing is not None
        await asyncio.shield(self._closing)

    def abort(self) -> None:
        """Close the socket now, without sending buffered data."""
        self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the hint is of no use here
        """See `asyncio.BufferedProtocol`."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._last_activity = self._loop.time()
        self.received += nbytes
        if not self._codec.ended:
            self._handle(self._codec.receive_bytes(bytes(self._buffer[:nbytes])))

    def eof_received(self) -> bool:
        """See `asyncio.BufferedProtocol`. The transport sends what is left and closes."""
        self._handle(self._codec.receive_eof())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BufferedProtocol`."""
        del exc
        self._blocked = False
        if not self.closed.done():
            self.closed.set_result(None)
        self._handle(self._codec.receive_eof())
        self._end()
        self._settle(self._drained)

    def pause_writing(self) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._blocked = True

    def resume_writing(self) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._blocked = False
        self._settle(self._drained)
        self._flush()

    async def send(self, stream: Stream, data: bytes) -> None:
        """For `Stream.write`. Writers that wait for room are served in the order of their calls."""
        if self._write_lock.locked() or not self._codec.wants_write:
            async with self._write_lock:
                while not (self._codec.wants_write or self._codec.ended or stream.lost):
                    self._room = self._loop.create_future()
                    await self._room
                self._send(stream, data)
        else:
            self._send(stream, data)

    def put(self, stream: Stream, data: bytes) -> None:
        """For `Stream.put`."""
        self._codec.send_data(stream.id, data)
        self._flush()

    def end_stream(self, stream: Stream) -> None:
        """For `Stream.end`."""
        self._codec.end_stream(stream.id)
        self._forget_if_done(stream)
        self._flush()

    def reset_stream(self, stream: Stream) -> None:
        """For `Stream.reset`."""
        self._codec.reset_stream(stream.id)
        self._streams.pop(stream.id, None)
        self._settle(self._room)
        self._flush()

    def consumed(self, stream: Stream, count: int) -> None:
        """For `Stream.read`."""
        self._codec.consumed(stream.id, count)
        self._choose_reading()

    def _send(self, stream: Stream, data: bytes) -> None:
        if not self._codec.send_data(stream.id, data):
            raise BrokenPipeError(f"stream {stream.id} has no reader")
        self._flush()

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case DataReceived(stream_id, data):
                    if (stream := self._streams.get(stream_id)) is not None:
                        stream.feed(data)
                    else:
                        self._codec.consumed(stream_id, len(data))
                case StreamOpened(stream_id, headers):
                    stream = self._streams[stream_id] = Stream(self, stream_id, headers)
                    self._handler.opened(stream)
                case StreamEnded(stream_id) if (stream := self._streams.get(stream_id)) is not None:
                    stream.feed_end()
                    self._forget_if_done(stream)
                case StreamReset(stream_id) if (stream := self._streams.pop(stream_id, None)) is not None:
                    stream.drop()
                    self._settle(self._room)
                    self._handler.reset(stream)
                case ConnectionEnded(how, message):
                    _log.debug("a stream connection ended: %s %s", how.value, message)
                    self._end()
                case _:  # further headers, unexpected responses, and streams that are already closed
                    pass
        self._flush()

    def _forget_if_done(self, stream: Stream) -> None:
        if stream.done:
            self._streams.pop(stream.id, None)

    def _flush(self) -> None:
        """Rule 2; and wake those who wait for room or for bytes."""
        if not self._blocked and (chunks := self._codec.data_to_send()) and not self._transport.is_closing():
            self._last_activity = self._loop.time()
            self.sent += sum(map(len, chunks))
            self._transport.writelines(chunks)
        if self._codec.wants_write or self._codec.ended:
            self._settle(self._room)
        self._choose_reading()

    def _choose_reading(self) -> None:
        """Rule 3. At the end everything is read and discarded."""
        should_read = self._codec.wants_read or self._codec.ended
        if should_read != self._reading and not self._transport.is_closing():
            self._reading = should_read
            if should_read:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _check_idle(self) -> None:
        left = self._last_activity + self._timeouts.idle - self._loop.time()
        if left > 0:
            self._idle_timer = self._loop.call_later(left, self._check_idle)
        else:
            _log.info("a stream connection is closed: idle for %g s", self._timeouts.idle)
            self._handler.idle()
            self._end()

    def _end(self) -> None:
        """All streams have ended; the socket is closed as soon as the peer has received everything."""
        if self._closing is not None:
            return
        self._closing = self._loop.create_task(self._close(), name="end of a stream connection")
        self._idle_timer.cancel()
        self._codec.close()
        for stream in self._streams.values():
            stream.lose()
        self._streams.clear()
        self._flush()
        self.ended.set_result(None)

    async def _close(self) -> None:
        """Rule 6."""
        transport = self._transport
        untaken, stuck = self._untaken(), 0.0
        sending = self._loop.create_task(self._finish_sending())
        while not self.closed.done():
            await asyncio.wait({self.closed}, timeout=self._timeouts.linger)
            before, untaken = untaken, self._untaken()
            stuck = 0.0 if untaken < before else stuck + self._timeouts.linger
            if not before or stuck >= self._timeouts.idle:
                break
        sending.cancel()
        transport.abort()
        await self.closed

    async def _finish_sending(self) -> None:
        """Pass everything to the kernel, then shut down our direction of the socket."""
        transport = self._transport
        halves = transport.can_write_eof()
        if not halves:  # TLS closes both directions at once, so everything must be sent before
            transport.set_write_buffer_limits(high=1)
        while not self.closed.done() and (self._codec.unsent or (not halves and transport.get_write_buffer_size())):
            self._drained = self._loop.create_future()
            await self._drained
        if transport.is_closing():
            return
        if halves:
            transport.write_eof()
        else:
            transport.close()

    def _untaken(self) -> int:
        """Bytes that the peer has not acknowledged, as far as the kernel reports that."""
        buffered = self._codec.unsent + self._transport.get_write_buffer_size()
        socket = self._transport.get_extra_info("socket")
        if socket is None or socket.fileno() < 0:
            return buffered
        queued: int = struct.unpack("i", fcntl.ioctl(socket, termios.TIOCOUTQ, bytes(4)))[0]
        return buffered + queued

    @staticmethod
    def _settle(future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)
