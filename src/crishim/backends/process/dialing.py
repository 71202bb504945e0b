"""A TCP connection to a port of this machine."""

import asyncio
import contextlib
from typing import Final

from crishim.errors import InvalidArgument, Unavailable
from crishim.interfaces.capabilities import ByteStream

LOOPBACK: Final = ("127.0.0.1", "::1")

_CHUNK: Final = 64 * 1024


class TcpStream(ByteStream):
    """A connection as the streaming side wants it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """The next piece; empty at the end, and when the other side broke off."""
        try:
            return await self._reader.read(_CHUNK)
        except ConnectionError:
            return b""

    async def write(self, data: bytes) -> None:
        """Hand over a piece. Raises `BrokenPipeError` when nobody will read it."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (ConnectionError, RuntimeError) as error:
            raise BrokenPipeError(str(error)) from error

    async def write_eof(self) -> None:
        """Nothing more will be written; reading goes on."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def close(self) -> None:
        """End both directions and free the connection. May be called twice."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def dial_loopback(port: int) -> ByteStream:
    """Connect to the loopback, IPv4 first.

    Raises `Unavailable`, naming both failures, when nobody listens, and `InvalidArgument` for what is no port.
    """
    if not 0 < port < 1 << 16:
        raise InvalidArgument("port", f"{port} is no port")
    failures = []
    for host in LOOPBACK:
        try:
            return TcpStream(*await asyncio.open_connection(host, port))
        except OSError as error:
            failures.append(f"{host}: {error.strerror or error}")
    raise Unavailable(f"nobody listens on port {port}: {'; '.join(failures)}")
