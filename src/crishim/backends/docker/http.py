"""HTTP/1.1 over a unix socket, as the Docker Engine uses it: responses, streams, and upgraded connections.

Built on h11 and bare sockets, since attach and exec need what client libraries hide: the connection itself after the upgrade,
whose two directions end separately (the end of a process's stdin is a half-close; the engine's reference, "attach").
Connections are reused. On a unix socket the end of the engine is visible at once, so an idle connection is checked before it
is used, and no request is ever sent twice.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

import attrs
import h11

from crishim.backends.docker.wire import Chunks
from crishim.errors import Unavailable
from crishim.interfaces.capabilities import ByteStream
from crishim.linux.tcp import TcpStream

_CHUNK: Final = 256 * 1024
_MAX_IDLE: Final = 16
"""The maximum of idle connections."""


@attrs.frozen
class Reply:
    """A status and the whole body."""

    status: int
    body: bytes


class Pieces:
    """A response in pieces: its status, then the body as it is sent, to its end.

    Raises `Unavailable` when the connection ends before.
    """

    def __init__(self, status: int, connection: "_EngineConnection") -> None:
        self.status = status
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._connection.pieces():
            yield piece
            await asyncio.sleep(0)  # lets other tasks run during a fast stream


class TakenOver(ByteStream):
    """An upgraded connection. Bytes that came with the response's head are read first."""

    def __init__(self, connection: socket.socket, first: bytes) -> None:
        self._stream = TcpStream(connection)
        self._first = first

    async def read(self) -> bytes:
        """The next piece; empty at the end."""
        if self._first:
            first, self._first = self._first, b""
            return first
        await asyncio.sleep(0)
        return await self._stream.read()

    async def write(self, data: bytes) -> None:
        """Write a piece. Raises `BrokenPipeError` when there is no reader any more."""
        await self._stream.write(data)

    async def write_eof(self) -> None:
        """End the writing direction."""
        await self._stream.write_eof()

    async def close(self) -> None:
        """End both directions."""
        await self._stream.close()


class HttpClient:
    """A client of the server at the unix socket `path`. Every method raises `Unavailable` when nothing listens there."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[_EngineConnection] = []

    async def request(
        self, method: str, target: str, body: bytes | None = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> Reply:
        """Send one request and return its whole response."""
        async with self.stream(method, target, body, headers) as pieces:
            return Reply(pieces.status, b"".join([piece async for piece in pieces]))

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, target: str, body: bytes | None = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> AsyncIterator[Pieces]:
        """One request, whose response is read in pieces inside the `async with`; leaving it early closes the connection."""
        connection = await self._connection()
        done = False
        try:
            await connection.ask(method, target, body, headers)
            yield Pieces(await connection.status(), connection)
            done = connection.start_again()
        finally:
            if done and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
            else:
                connection.close()

    async def take_over(self, target: str, body: bytes) -> TakenOver | Reply:
        """POST with an upgrade: the connection itself, or the response of a server that refuses."""
        connection = await self._connection()
        taken = False
        try:
            await connection.ask("POST", target, body, (("Connection", "Upgrade"), ("Upgrade", "tcp")))
            status = await connection.status()
            if status != 101:
                pieces = [piece async for piece in Pieces(status, connection)]
                return Reply(status, b"".join(pieces))
            taken = True
            return connection.taken()
        finally:
            if not taken:
                connection.close()

    def close(self) -> None:
        """Close idle connections. The client can be used again."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def _connection(self) -> "_EngineConnection":
        while self._idle:
            connection = self._idle.pop()
            if connection.alive():
                return connection
            connection.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self._path)
        except OSError as error:
            sock.close()
            raise Unavailable(f"nothing listens at {self._path}: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise
        return _EngineConnection(sock)


class _EngineConnection:
    """One connection, one request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._wire = h11.Connection(h11.CLIENT)
        self._loop = asyncio.get_running_loop()
        self._chunked = False

    def alive(self) -> bool:
        """Whether the connection is open, and has no unexpected data."""
        if asyncio.get_running_loop() is not self._loop:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def ask(self, method: str, target: str, body: bytes | None, headers: tuple[tuple[str, str], ...]) -> None:
        """Send a request."""
        head = [("Host", "docker"), *headers]
        if body is not None:
            if not any(name == "Content-Type" for name, _ in headers):
                head.append(("Content-Type", "application/json"))
            head.append(("Content-Length", str(len(body))))
        data = self._wire.send(h11.Request(method=method, target=target, headers=head)) or b""
        if body:
            data += self._wire.send(h11.Data(data=body)) or b""
        data += self._wire.send(h11.EndOfMessage()) or b""
        try:
            await self._loop.sock_sendall(self._socket, data)
        except OSError as error:
            raise Unavailable(f"the engine has closed the connection: {error.strerror or error}") from error

    async def status(self) -> int:
        """The response's status; 101 for an upgrade."""
        while True:
            event = await self.receive()
            if isinstance(event, h11.Response):
                self._chunked = (b"transfer-encoding", b"chunked") in event.headers
                return event.status_code
            if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                return event.status_code

    async def receive(self) -> object:
        """The next event of the response."""
        while True:
            try:
                event = self._wire.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self._wire.receive_data(await self._loop.sock_recv(self._socket, _CHUNK))
            except OSError as error:
                raise Unavailable(f"the engine has closed the connection: {error.strerror or error}") from error
            except h11.RemoteProtocolError as error:
                raise Unavailable(f"the engine's response is invalid: {error}") from error

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, in pieces as they arrive."""
        if not self._chunked:
            while isinstance(event := await self.receive(), h11.Data):
                yield bytes(event.data)
            return
        chunks, data = Chunks(), self._wire.trailing_data[0]
        while not chunks.ended:
            if piece := chunks.feed(data):
                yield piece
            if not chunks.ended:
                data = await self._more()
        self._wire = h11.Connection(h11.CLIENT)  # h11 has not seen the body, and would wait for it

    async def _more(self) -> bytes:
        try:
            data = await self._loop.sock_recv(self._socket, _CHUNK)
        except OSError as error:
            raise Unavailable(f"the engine has closed the connection: {error.strerror or error}") from error
        if not data:
            raise Unavailable("the engine has closed the connection during a response")
        return data

    def start_again(self) -> bool:
        """Whether the connection can be used for another request."""
        if self._wire.our_state is h11.DONE and self._wire.their_state is h11.DONE:
            self._wire.start_next_cycle()
        return self._wire.our_state is h11.IDLE and self._wire.their_state is h11.IDLE

    def taken(self) -> TakenOver:
        """Hand the connection over to the caller."""
        return TakenOver(self._socket, self._wire.trailing_data[0])

    def close(self) -> None:
        """Close the connection."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._socket.close()
