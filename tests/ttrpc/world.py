"""A ttrpc server of this process on a socket of its own, and clients to it."""

import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from crishim.ttrpc.client import Client
from crishim.ttrpc.server import Handler, Server, StreamHandler


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    unary: Mapping[tuple[str, str], Handler],
    streams: Mapping[tuple[str, str], StreamHandler] | None = None,
) -> AsyncIterator[str]:
    """A server; gives its address."""
    path = folder / "s"
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    server = Server(unary, streams)
    await server.listen(bound)
    try:
        yield f"unix://{path}"
    finally:
        await server.close()
        path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def connected(
    folder: Path,
    unary: Mapping[tuple[str, str], Handler],
    streams: Mapping[tuple[str, str], StreamHandler] | None = None,
) -> AsyncIterator[Client]:
    """A client of such a server."""
    async with serving(folder, unary, streams) as address:
        client = await Client.connect(address)
        try:
            yield client
        finally:
            await client.close()
