"""TCP connections to a loopback: this machine's, or that of whoever made the socket."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from crishim.errors import CrishimError, InvalidArgument, Unavailable
from crishim.interfaces.capabilities import ByteStream

LOOPBACK: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

_CHUNK: Final = 64 * 1024
_PATIENCE: Final = 10.0
"""Seconds for which a loopback may leave a connection unanswered."""


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


def stream_socket(family: int) -> socket.socket:
    """A TCP socket of the network namespace in which the calling thread is."""
    return socket.socket(family, socket.SOCK_STREAM)


async def dial_loopback(port: int, make: Callable[[int], socket.socket] = stream_socket) -> ByteStream:
    """Connect to `port` of a loopback, IPv4 first; `make` gives the socket of an address family.

    Raises `Unavailable`, naming both failures, when nobody listens, and `InvalidArgument` for what is no port.
    """
    if not 0 < port < 1 << 16:
        raise InvalidArgument("port", f"{port} is no port")
    failures = []
    for family, host in LOOPBACK:
        try:
            return await _connect(make(family), host, port)
        except (OSError, CrishimError) as error:
            failures.append(f"{host}: {getattr(error, 'strerror', '') or str(error) or 'no answer'}")
    raise Unavailable(f"nobody listens on port {port}: {'; '.join(failures)}")


async def _connect(made: socket.socket, host: str, port: int) -> ByteStream:
    try:
        made.setblocking(False)
        async with asyncio.timeout(_PATIENCE):
            await asyncio.get_running_loop().sock_connect(made, (host, port))
        return TcpStream(*await asyncio.open_connection(sock=made))
    except BaseException:
        made.close()
        raise
