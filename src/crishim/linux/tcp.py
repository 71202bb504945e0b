"""TCP connections: to a loopback, this machine's or that of whoever made the socket, and to addresses."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from crishim.errors import CrishimError, InvalidArgument, Unavailable

LOOPBACK: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

_CHUNK: Final = 256 * 1024
_TIMEOUT: Final = 10.0
"""Seconds for which a loopback may leave a connection unanswered."""


class TcpStream:
    """A connected socket, which is an `interfaces` `ByteStream`. A write waits for the kernel."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._closed = False

    async def read(self) -> bytes:
        """The next piece; empty at the end, and when the other side broke off."""
        if self._closed:
            return b""
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """Hand over a piece. Raises `BrokenPipeError` when nobody will read it."""
        if self._closed:
            raise BrokenPipeError("the connection is closed")
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise BrokenPipeError(str(error)) from error

    async def write_eof(self) -> None:
        """Nothing more will be written; reading goes on."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """End both directions and free the connection. May be called twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0)  # whoever waits for the socket is woken before its number can be used again
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self._socket.close()


def stream_socket(family: int) -> socket.socket:
    """A TCP socket of the network namespace in which the calling thread is."""
    return socket.socket(family, socket.SOCK_STREAM)


async def dial_loopback(port: int, make: Callable[[int], socket.socket] = stream_socket) -> TcpStream:
    """Connect to `port` of a loopback, IPv4 first; `make` gives the socket of an address family.

    Raises `Unavailable`, naming both failures, when nobody listens, and `InvalidArgument` for what is no port.
    """
    return await _dial(LOOPBACK, port, make)


async def dial_address(addresses: Sequence[str], port: int) -> TcpStream:
    """Connect to `port` of whoever has these addresses, tried in their order. Raises as `dial_loopback`."""
    return await _dial([(socket.AF_INET6 if ":" in host else socket.AF_INET, host) for host in addresses], port, stream_socket)


async def _dial(hosts: Iterable[tuple[int, str]], port: int, make: Callable[[int], socket.socket]) -> TcpStream:
    if not 0 < port < 1 << 16:
        raise InvalidArgument("port", f"{port} is no port")
    failures = []
    for family, host in hosts:
        try:
            return await _connect(make(family), host, port)
        except (OSError, CrishimError) as error:
            failures.append(f"{host}: {getattr(error, 'strerror', '') or str(error) or 'no answer'}")
    raise Unavailable(f"nobody listens on port {port}: {'; '.join(failures)}")


async def _connect(made: socket.socket, host: str, port: int) -> TcpStream:
    try:
        made.setblocking(False)
        async with asyncio.timeout(_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(made, (host, port))
        return TcpStream(made)
    except BaseException:
        made.close()
        raise
