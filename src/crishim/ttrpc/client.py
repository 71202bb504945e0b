"""A ttrpc client on asyncio: concurrent calls on one connection."""

import asyncio
from collections.abc import Callable
from typing import Final

from crishim.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from crishim.ttrpc.address import open_socket
from crishim.ttrpc.connection import Answered, ClientConnection, DataArrived, Metadata, Request, Status
from crishim.ttrpc.status import TtrpcError

__all__ = ["Client", "ClientStream"]

_CLOSED: Final = "the connection is closed"


class Client:
    """A connection to a ttrpc server. For use on one event loop.

    When the connection ends, every call under way and every later one raises `Unavailable`.
    """

    def __init__(self, wire: "_Wire") -> None:
        self._wire = wire

    @classmethod
    async def connect(cls, address: str) -> "Client":
        """Connect to a shim's address.

        Raises `Unavailable` if nothing listens, `InvalidArgument` for an invalid address, and `ResourceExhausted` when this
        process has no file descriptors left.
        """
        try:
            sock, target = open_socket(address)
        except OSError as error:
            raise ResourceExhausted(f"no socket for {address}: {error.strerror}") from error
        try:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, target)
            _, wire = await loop.create_connection(_Wire, sock=sock)
        except OSError as error:
            sock.close()
            raise Unavailable(f"{address}: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise
        return cls(wire)

    @classmethod
    def over(cls, bind: Callable[[asyncio.Protocol], object]) -> "Client":
        """A client over a channel of a multiplexed connection: `bind` connects a protocol to it."""
        wire = _Wire()
        bind(wire)
        return cls(wire)

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the connection has ended; never fails. Shield it from cancellation."""
        return self._wire.closed

    async def ended(self) -> None:
        """Return when the connection has ended."""
        await asyncio.shield(self._wire.closed)

    async def call(
        self, service: str, method: str, payload: bytes, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> bytes:
        """Send one request and return the payload of its response. `timeout` is in seconds; it is also sent to the server.

        Raises `TtrpcError` with the server's status, `DeadlineExceeded`, `Unavailable` when the connection ends, and
        `ResourceExhausted` for a request over 4 MiB. A cancelled call continues in the server: ttrpc has no cancellation.
        """
        nanoseconds = 0 if timeout is None else max(1, int(timeout * 1e9))
        request = Request(service=service, method=method, payload=payload, timeout=nanoseconds, metadata=metadata)
        stream, answer = self._wire.begin(request)
        try:
            if timeout is None:
                return await answer
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError as error:
            raise DeadlineExceeded(f"{method} took longer than {timeout:g} s") from error
        finally:
            self._wire.forget(stream)

    def stream(self, service: str, method: str, payload: bytes = b"", *, more: bool, metadata: Metadata = ()) -> "ClientStream":
        """Begin a streaming call. With `more` the client sends messages too. Raises as `call`."""
        messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        request = Request(service=service, method=method, payload=payload, metadata=metadata)
        number, answer = self._wire.begin(request, more=more, arrived=messages.put_nowait)
        answer.add_done_callback(lambda _: messages.put_nowait(None))
        return ClientStream(self._wire, number, answer, messages)

    async def close(self) -> None:
        """End the connection. May be called twice."""
        self._wire.close()
        await asyncio.shield(self._wire.closed)


class ClientStream:
    """A streaming call: `send` and `end` for the client's messages, `receive` for the server's."""

    def __init__(
        self, wire: "_Wire", number: int, answer: "asyncio.Future[bytes]", messages: "asyncio.Queue[bytes | None]"
    ) -> None:
        self._wire = wire
        self._number = number
        self._answer = answer
        self._messages = messages

    def send(self, payload: bytes) -> None:
        """Send a message to the server. Raises `Unavailable`."""
        self._wire.send_data(self._number, payload)

    def end(self) -> None:
        """End the client's messages."""
        self._wire.end_data(self._number)

    async def receive(self) -> bytes | None:
        """The server's next message; None at the end. Raises as `Client.call` if the status is not OK."""
        message = await self._messages.get()
        if message is None:
            self._messages.put_nowait(None)
            await self._answer
        return message

    async def result(self) -> bytes:
        """The response that ends the call; empty if the server ends it with its last message. Raises as `Client.call`."""
        return await asyncio.shield(self._answer)

    def close(self) -> None:
        """Abandon the call."""
        self._wire.forget(self._number)
        self._answer.cancel()


class _Wire(asyncio.Protocol):
    """Passes the socket's bytes to the state machine, and its events to the waiting calls."""

    def __init__(self) -> None:
        self._machine = ClientConnection()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, tuple[asyncio.Future[bytes], Callable[[bytes], None] | None]] = {}
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def begin(
        self, request: Request, *, more: bool = False, arrived: Callable[[bytes], None] | None = None
    ) -> tuple[int, asyncio.Future[bytes]]:
        """Send a request; `arrived` is called with each message of the server."""
        transport = self._alive()
        try:
            stream = self._machine.call(request, more=more)
        except (ValueError, OverflowError) as error:
            raise ResourceExhausted(str(error)) from error
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = (answer, arrived)
        transport.write(self._machine.to_send())
        return stream, answer

    def send_data(self, stream: int, payload: bytes) -> None:
        """Send a message on a stream."""
        transport = self._alive()
        try:
            self._machine.send_data(stream, payload)
        except ValueError as error:
            raise ResourceExhausted(str(error)) from error
        transport.write(self._machine.to_send())

    def end_data(self, stream: int) -> None:
        """End the messages on a stream."""
        transport = self._alive()
        self._machine.end_data(stream)
        transport.write(self._machine.to_send())

    def forget(self, stream: int) -> None:
        """Drop a stream that is not waited for any more."""
        self._waiting.pop(stream, None)
        self._machine.forget(stream)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        for event in self._machine.receive(data):
            match event:
                case DataArrived(stream, payload):
                    if (call := self._waiting.get(stream)) and call[1] is not None:
                        call[1](payload)
                case Answered(stream, status, payload):
                    self._answered(stream, status, payload)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the next call reports why it ended
        self._transport = None
        waiting, self._waiting = self._waiting, {}
        for answer, _ in waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable(_CLOSED))
                answer.exception()  # marks the error as seen, since the caller may have been cancelled
        self.closed.set_result(None)

    def _answered(self, stream: int, status: Status, payload: bytes) -> None:
        call = self._waiting.pop(stream, None)
        if call is None or call[0].done():
            return
        if status.code:
            call[0].set_exception(TtrpcError(status))
            call[0].exception()
        else:
            call[0].set_result(payload)

    def _alive(self) -> asyncio.Transport:
        if self._transport is None or self._transport.is_closing():
            raise Unavailable(_CLOSED)
        return self._transport
