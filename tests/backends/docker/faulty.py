"""A way to a real engine on which single calls go wrong."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import attrs


@attrs.frozen
class Fault:
    """The next call of `method` whose path (without its query) ends so is answered with `status` and not forwarded; without
    a status it is forwarded, and the connection breaks before the response.
    """

    method: str
    path: str
    status: int | None


class Proxy:
    """Passes connections on, one request each where faults are near."""

    def __init__(self, engine: str) -> None:
        self.faults: list[Fault] = []
        self._engine = engine

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on, looking at the head of each request."""
        there, back = await asyncio.open_unix_connection(self._engine)
        passing = asyncio.create_task(_pass(there, writer))
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].partition(b":")[2]) if length else 0)
                fault = self._fault(head)
                if fault is not None and fault.status is not None:
                    writer.write(b'HTTP/1.1 %d X\r\nContent-Length: 18\r\n\r\n{"message":"oops"}' % fault.status)
                    continue
                if fault is not None:
                    passing.cancel()
                    await asyncio.wait({passing})
                back.write(head + body)
                await back.drain()
                if fault is not None:
                    await there.readuntil(b"\r\n\r\n")
                    return
                if b"upgrade: tcp" in head.lower():
                    await _pass(reader, back)
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            passing.cancel()
            back.close()
            writer.close()

    def _fault(self, head: bytes) -> Fault | None:
        method, target, _ = head.split(b" ", 2)
        for fault in self.faults:
            if method.decode() == fault.method and target.decode().partition("?")[0].endswith(fault.path):
                self.faults.remove(fault)
                return fault
        return None


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def faulty(engine: str, path: Path) -> AsyncIterator[Proxy]:
    """A socket at `path` that leads to the engine's."""
    proxy = Proxy(engine)
    listener = await asyncio.start_unix_server(proxy.talk, path)
    try:
        yield proxy
    finally:
        listener.close()
        await listener.wait_closed()
