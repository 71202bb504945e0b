"""A ttrpc server on asyncio.

A table maps service and method to a handler. Many calls may run concurrently on one connection, and many connections may be
open. Each call is a task, which is cancelled at its timeout or when its connection ends. A handler's `CrishimError` is sent as
a status with its code; any other exception is logged with its traceback and sent as UNKNOWN.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TypeAlias, TypeVar

from google.protobuf.message import Message

from crishim._proto import UNDECODABLE
from crishim.errors import CrishimError, DeadlineExceeded, InvalidArgument, Unimplemented
from crishim.ttrpc.connection import Called, DataArrived, Request, ServerConnection
from crishim.ttrpc.status import status_of

__all__ = ["Handler", "Server", "ServerStream", "StreamHandler"]

_log = logging.getLogger(__name__)

T = TypeVar("T")
M = TypeVar("M", bound=Message)

Handler: TypeAlias = Callable[[Request], Awaitable[bytes]]
"""One request, one response: returns the response's payload."""


def message_of(request: Request, kind: type[M]) -> M:
    """The message of a request. Raises `InvalidArgument`."""
    try:
        return kind.FromString(request.payload)
    except UNDECODABLE as error:
        raise InvalidArgument(request.method, f"the request cannot be read: {error}") from error


class ServerStream:
    """The two directions of a streaming call, for its handler."""

    def __init__(self, request: Request, send: Callable[[bytes], Awaitable[None]]) -> None:
        self.request = request
        self.send = send
        """Send a message to the client; waits while the client does not read."""
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def receive(self) -> bytes | None:
        """The client's next message; None at the end, and at every later call."""
        message = await self.messages.get()
        if message is None:
            self.messages.put_nowait(None)
        return message


StreamHandler: TypeAlias = Callable[[ServerStream], Awaitable[bytes | None]]
"""Returns the payload of the response that ends the call, or None if the call was answered with messages."""


class Server:
    """Serves `unary` and `streams`, by service (with its package) and method."""

    def __init__(
        self, unary: Mapping[tuple[str, str], Handler], streams: Mapping[tuple[str, str], StreamHandler] | None = None
    ) -> None:
        self._unary = unary
        self._streams = streams or {}
        self._listeners: list[asyncio.Server] = []
        self._connections: set[_ServerConnection] = set()
        self._closed = False

    async def listen(self, bound: socket.socket) -> None:
        """Serve a bound stream socket, which the server then owns. May be called for several."""
        loop = asyncio.get_running_loop()
        if bound.family == socket.AF_UNIX:
            listener = await loop.create_unix_server(self._connection, sock=bound)
        else:
            listener = await loop.create_server(self._connection, sock=bound)
        self._listeners.append(listener)

    async def adopt(self, connected: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere."""
        await asyncio.get_running_loop().connect_accepted_socket(self._connection, connected)

    def serve(self, bind: Callable[[asyncio.Protocol], object]) -> None:
        """Serve a channel of a multiplexed connection: `bind` connects a protocol to it."""
        bind(self._connection())

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def close(self) -> None:
        """Stop listening, cancel every call, and end every connection, also one that is just being accepted."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection in tuple(self._connections):
            connection.end()
        while self._connections:
            await asyncio.wait([connection.ended for connection in self._connections])

    def _connection(self) -> "_ServerConnection":
        return _ServerConnection(self._unary, self._streams, self._came, self._connections.discard)

    def _came(self, connection: "_ServerConnection") -> None:
        if self._closed:
            connection.end()
        else:
            self._connections.add(connection)


class _ServerConnection(asyncio.Protocol):
    """The connection of one client."""

    def __init__(
        self,
        unary: Mapping[tuple[str, str], Handler],
        streams: Mapping[tuple[str, str], StreamHandler],
        came: "Callable[[_ServerConnection], None]",
        left: "Callable[[_ServerConnection], None]",
    ) -> None:
        self._unary = unary
        self._streams = streams
        self._came = came
        self._left = left
        self._machine = ServerConnection()
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._inputs: dict[int, ServerStream] = {}
        self._room = asyncio.Event()
        self._room.set()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._came(self)

    def data_received(self, data: bytes) -> None:
        for event in self._machine.receive(data):
            match event:
                case Called(stream, request, more):
                    self._begin(stream, request, more=more)
                case DataArrived(stream, payload):
                    if opened := self._inputs.get(stream):
                        opened.messages.put_nowait(payload)
                case _:
                    if opened := self._inputs.get(event.stream):
                        opened.messages.put_nowait(None)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a client may leave as it likes
        self._transport = None
        self._left(self)
        self._room.set()
        for call in self._calls.values():
            call.cancel()
        self.ended.set_result(None)

    def pause_writing(self) -> None:
        self._room.clear()
        if self._transport is not None:
            self._transport.pause_reading()  # a client that does not read its responses may send no more requests

    def resume_writing(self) -> None:
        self._room.set()
        if self._transport is not None:
            self._transport.resume_reading()

    def end(self) -> None:
        """End the connection and cancel its calls."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, stream: int, request: Request, *, more: bool) -> None:
        handler = self._streams.get((request.service, request.method))
        work = self._run(stream, request) if handler is None else self._run_stream(stream, handler, request, more=more)
        task = asyncio.get_running_loop().create_task(work, name=request.method)
        self._calls[stream] = task
        task.add_done_callback(lambda _: self._done(stream))

    def _done(self, stream: int) -> None:
        self._calls.pop(stream, None)
        self._inputs.pop(stream, None)

    async def _run(self, stream: int, request: Request) -> None:
        try:
            handler = self._unary.get((request.service, request.method))
            if handler is None:
                raise Unimplemented(request.method, f"/{request.service}/{request.method} is not served here")
            self._machine.answer(stream, await _in_time(handler(request), request))
        except Exception as error:  # noqa: BLE001 - any error of a handler becomes a response
            self._refuse(stream, request, error)
        self._flush()

    def _run_stream(self, stream: int, handler: StreamHandler, request: Request, *, more: bool) -> Coroutine[None, None, None]:
        async def send(payload: bytes) -> None:
            self._machine.send_data(stream, payload)
            self._flush()
            await self._room.wait()

        # Data may arrive with the request: the stream must be registered before the task begins.
        opened = self._inputs[stream] = ServerStream(request, send)
        if not more:
            opened.messages.put_nowait(None)
        return self._accompany(stream, handler, opened)

    async def _accompany(self, stream: int, handler: StreamHandler, opened: ServerStream) -> None:
        try:
            payload = await _in_time(handler(opened), opened.request)
            if payload is None:
                self._machine.end_data(stream)
            else:
                self._machine.answer(stream, payload)
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(stream, opened.request, error)
        self._flush()

    def _refuse(self, stream: int, request: Request, error: Exception) -> None:
        if not isinstance(error, CrishimError | TimeoutError):
            _log.error("%s raised", request.method, exc_info=error)
        self._machine.refuse(stream, status_of(error))

    def _flush(self) -> None:
        out = self._machine.to_send()
        if out and self._transport is not None:
            self._transport.write(out)


async def _in_time(work: Awaitable[T], request: Request) -> T:
    if not request.timeout:
        return await work
    scope = asyncio.timeout(max(0, request.timeout) / 1e9)
    try:
        async with scope:
            return await work
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise DeadlineExceeded(f"{request.method}: the client's timeout has passed") from error
