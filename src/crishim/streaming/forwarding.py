"""Port-forward: each pair of streams that a client opens becomes a connection to a port of the pod.

Pairs are independent. For a port that cannot be reached, the pair's error stream gets the message and its data stream is
reset; other pairs continue. Each direction ends by itself: the client's end is passed on to the port, while the port's data
continues; the port's end is passed on to the client, and the error stream ends with it, since clients wait for that. A
half-closed connection that is silent for `Timeouts.half_closed` seconds is closed.

WebSocket's channels cannot end separately: there a connection ends with the port's end, and the WebSocket is closed when all
have ended.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable

from crishim.errors import CrishimError
from crishim.interfaces.capabilities import ByteStream
from crishim.model.process import PortForwardRequest
from crishim.streaming.connection import Stream, StreamConnection, Timeouts
from crishim.streaming.events import ProtocolError, StreamOpened
from crishim.streaming.portforward import Pairing
from crishim.streaming.sessions import StreamTarget

_log = logging.getLogger(__name__)


class PortForward:
    """One port-forward connection, which is its connection's `StreamHandler`; `run` is called once.

    `channels`: whether the streams are WebSocket's channels.
    """

    def __init__(self, request: PortForwardRequest, target: StreamTarget, timeouts: Timeouts, *, channels: bool) -> None:
        self._sandbox_id = request.pod_sandbox_id
        self._target = target
        self._timeouts = timeouts
        self._channels = channels
        self._loop = asyncio.get_running_loop()
        self._pairing = Pairing(timeouts.creation)
        self._waiting: dict[int, Stream] = {}
        self._forwards: dict[int, asyncio.Task[None]] = {}  # by the data stream's id

    def opened(self, stream: Stream) -> None:
        """See `StreamHandler`."""
        try:
            pair = self._pairing.add(StreamOpened(stream.id, stream.headers), self._loop.time())
        except ProtocolError as error:
            _log.info("a stream is refused: %s", error.message)
            stream.reset()
            return
        self._waiting[stream.id] = stream
        if pair is not None:
            data, error_stream = self._waiting.pop(pair.data_id), self._waiting.pop(pair.error_id)
            error_stream.discard()
            forward = Forward(data, error_stream, self._timeouts, channels=self._channels)
            dial = functools.partial(self._target.dial, self._sandbox_id, pair.port)
            task = self._loop.create_task(forward.run(dial, f"port {pair.port} of sandbox {self._sandbox_id}"))
            self._forwards[data.id] = task
            task.add_done_callback(lambda _: self._forwards.pop(data.id, None))

    def reset(self, stream: Stream) -> None:
        """See `StreamHandler`."""
        self._pairing.forget(stream.id)
        self._waiting.pop(stream.id, None)
        if (forward := self._forwards.get(stream.id)) is not None:
            forward.cancel()

    def idle(self) -> None:
        """See `StreamHandler`."""

    async def run(self, connection: StreamConnection) -> None:
        """Forward until the client disconnects, or over channels until all connections have ended; then close the
        connection.
        """
        try:
            while not connection.ended.done() and (self._forwards or not self._channels):
                watched = {connection.ended, *(self._forwards.values() if self._channels else ())}
                await asyncio.wait(watched, timeout=self._timeouts.creation, return_when=asyncio.FIRST_COMPLETED)
                for stream_id in self._pairing.expired(self._loop.time()):
                    _log.info("stream %d waited too long for the other of its pair", stream_id)
                    self._waiting.pop(stream_id).reset()
        finally:
            forwards = tuple(self._forwards.values())
            for task in forwards:
                task.cancel()
            await asyncio.gather(*forwards, return_exceptions=True)
            await connection.close()


class Forward:
    """One forwarded connection."""

    def __init__(self, data: Stream, error: Stream, timeouts: Timeouts, *, channels: bool) -> None:
        self._data = data
        self._error = error
        self._timeouts = timeouts
        self._channels = channels
        self._moved = 0  # bytes, in both directions

    async def run(self, dial: Callable[[], Awaitable[ByteStream]], name: str) -> None:
        """Dial, and forward until both directions have ended. Raises nothing."""
        try:
            port = await dial()
        except CrishimError as error:
            self._fail(f"error forwarding {name}: {error.message}")
            return
        try:
            await self._join(port)
        except (CrishimError, OSError) as error:
            if not self._data.lost:
                self._fail(f"error forwarding {name}: {error}")
        finally:
            self._data.end()
            self._error.end()
            with contextlib.suppress(CrishimError, OSError):
                await port.close()

    def _fail(self, message: str) -> None:
        self._error.put(message.encode(errors="replace"))
        self._data.reset()
        self._error.end()

    async def _join(self, port: ByteStream) -> None:
        """Copy both directions. Raises the errors of the port's direction."""
        sending = asyncio.ensure_future(self._to_port(port))
        answering = asyncio.ensure_future(self._from_port(port))
        both = {sending, answering}
        try:
            done, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if not pending or self._data.lost or self._channels:
                return
            moved = -1
            while pending and moved != self._moved:
                moved = self._moved
                done, pending = await asyncio.wait(pending, timeout=self._timeouts.half_closed)
            if pending:
                self._data.reset()
            for task in done:
                task.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _to_port(self, port: ByteStream) -> None:
        try:
            while data := await self._data.read():
                await port.write(data)
                self._moved += len(data)
            if not self._data.lost:
                await port.write_eof()
        except (CrishimError, OSError) as error:  # it reads no more, but may have responded before; the other direction decides
            _log.debug("a forwarded port reads no more: %s", error)
            self._data.discard()

    async def _from_port(self, port: ByteStream) -> None:
        while data := await port.read():
            await self._data.write(data)
            self._moved += len(data)
        self._data.end()
        self._error.end()
