"""Serves `GET /metrics` and `GET /metrics/cadvisor` over HTTP/1.1; on the event loop, so that gauges do not change during a
scrape.

One request at a time on a connection, which may be reused. A connection without a request for `_TIMEOUT` seconds is closed.
There is no authentication: the default address is the loopback interface.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, TypeAlias

import h11
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from crishim.errors import CrishimError, InvalidArgument

__all__ = ["Collect", "scraped"]

_log = logging.getLogger(__name__)

Collect: TypeAlias = Callable[[], Awaitable[Collector]]
"""Returns what to show, called for each scrape. May raise any `CrishimError`."""

_TIMEOUT: Final = 60.0
_CONNECTIONS: Final = 64


def split_address(address: str) -> tuple[str, int]:
    """Parse `host:port`, `[v6]:port` or `:port` for the loopback interface. Raises `InvalidArgument`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise InvalidArgument("metrics_address", f"must be HOST:PORT, not {address!r}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


@contextlib.asynccontextmanager
async def scraped(metrics: Collector, address: str, containers: Collect | None = None) -> AsyncIterator[str]:
    """Serve scrapes inside the `async with`, which yields the URL. Port 0 is any free one.

    `containers` returns what is at `/metrics/cadvisor`. Raises `InvalidArgument` for an invalid address, and `OSError` for one
    that cannot be bound.
    """
    host, port = split_address(address)
    paths: dict[bytes, Collect] = {b"/metrics": lambda: _same(metrics)}
    if containers is not None:
        paths[b"/metrics/cadvisor"] = containers
    talks: set[asyncio.Task[None]] = set()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            if len(talks) <= _CONNECTIONS:
                await _talk(paths, reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            talks.discard(task)
            writer.close()

    server = await asyncio.start_server(begin, host, port)
    bound = server.sockets[0].getsockname()
    url = f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}/metrics"
    _log.info("metrics at %s", url)
    try:
        yield url
    finally:
        server.close()
        for talk in tuple(talks):
            talk.cancel()
        await asyncio.gather(*talks)


async def _talk(paths: Mapping[bytes, Collect], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER)
    while (request := await _request(connection, reader, writer)) is not None:
        status, headers, body = await _answer(paths, request)
        headers.append((b"content-length", str(len(body)).encode()))
        for event in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=b"" if request.method == b"HEAD" else body),
            h11.EndOfMessage(),
        ):
            writer.write(connection.send(event) or b"")
        async with asyncio.timeout(_TIMEOUT):
            await writer.drain()
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _request(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> h11.Request | None:
    """The next request, read to its end; None if there is none. Invalid HTTP is answered with 400."""
    request: h11.Request | None = None
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            if connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                head = h11.Response(status_code=400, headers=[(b"connection", b"close"), (b"content-length", b"0")])
                writer.write((connection.send(head) or b"") + (connection.send(h11.EndOfMessage()) or b""))
            return None
        if event is h11.NEED_DATA:
            async with asyncio.timeout(_TIMEOUT):
                connection.receive_data(await reader.read(1 << 14))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None


async def _same(metrics: Collector) -> Collector:
    return metrics


async def _answer(paths: Mapping[bytes, Collect], request: h11.Request) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    collect = paths.get(request.target.partition(b"?")[0])
    if collect is None:
        return 404, [(b"content-type", b"text/plain")], b"metrics are at " + b", ".join(paths) + b"\n"
    if request.method not in {b"GET", b"HEAD"}:
        return 405, [(b"allow", b"GET, HEAD"), (b"content-type", b"text/plain")], b"metrics are read by GET\n"
    accept = b",".join(value for name, value in request.headers if name == b"accept")
    encode, content_type = choose_encoder(accept.decode("latin-1"))
    try:
        metrics = await collect()
    except CrishimError as error:
        return 503, [(b"content-type", b"text/plain")], f"{error.message}\n".encode(errors="replace")
    return 200, [(b"content-type", content_type.encode())], encode(metrics)
