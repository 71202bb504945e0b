"""TCP connections: to a loopback interface, of this network namespace or of the one in which a socket was created, and to
addresses.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from crishim.errors import CrishimError, InvalidArgument, Unavailable

LOOPBACK: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

_CHUNK: Final = 256 * 1024
_TIMEOUT: Final = 10.0
"""Seconds for a connection to a loopback interface."""


class TcpStream:
    """A connected socket as a `ByteStream` of `interfaces`. A write waits for the kernel."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._closed = False

    async def read(self) -> bytes:
        """The next piece; empty at the end, and when the peer has closed the connection."""
        if self._closed:
            return b""
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """Write a piece. Raises `BrokenPipeError` when there is no reader any more."""
        if self._closed:
            raise BrokenPipeError("the connection is closed")
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise BrokenPipeError(str(error)) from error

    async def write_eof(self) -> None:
        """End the writing direction; reading continues."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """End both directions and close the connection. May be called twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0)  # waiters are woken before the descriptor can be reused
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self._socket.close()


def stream_socket(family: int) -> socket.socket:
    """A TCP socket of the network namespace of the calling thread."""
    return socket.socket(family, socket.SOCK_STREAM)


async def dial_loopback(port: int, make: Callable[[int], socket.socket] = stream_socket) -> TcpStream:
    """Connect to `port` of a loopback interface, IPv4 first; `make` returns a socket of an address family.

    Raises `Unavailable`, naming both failures, when nothing listens, and `InvalidArgument` for an invalid port.
    """
    return await _dial(LOOPBACK, port, make)


async def dial_address(addresses: Sequence[str], port: int) -> TcpStream:
    """Connect to `port` of one of these addresses, tried in order. Raises as `dial_loopback`."""
    return await _dial([(socket.AF_INET6 if ":" in host else socket.AF_INET, host) for host in addresses], port, stream_socket)


async def _dial(hosts: Iterable[tuple[int, str]], port: int, make: Callable[[int], socket.socket]) -> TcpStream:
    if not 0 < port < 1 << 16:
        raise InvalidArgument("port", f"{port} is not a port")
    failures = []
    for family, host in hosts:
        try:
            return await _connect(make(family), host, port)
        except (OSError, CrishimError) as error:
            failures.append(f"{host}: {getattr(error, 'strerror', '') or str(error) or 'no answer'}")
    raise Unavailable(f"no listener on port {port}: {'; '.join(failures)}")


async def _connect(sock: socket.socket, host: str, port: int) -> TcpStream:
    try:
        sock.setblocking(False)
        async with asyncio.timeout(_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return TcpStream(sock)
    except BaseException:
        sock.close()
        raise
