"""Waiting for what events announce."""

import asyncio
from pathlib import Path

import pytest

from crishim.backends.docker.engine import Engine
from crishim.backends.docker.watch import Event, EventWatch
from crishim.errors import Unavailable
from crishim.system import SystemClock
from tests.backends.docker.http_server import Served, serving
from tests.backends.docker.node import SLEEPS, Node
from tests.backends.docker.world import Dockerd, needs

VERSION = Served(200, b'{"ApiVersion":"1.41","MinAPIVersion":"1.12"}')
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_stream_that_breaks_ends_all_waits() -> None:
    """A wait raises Unavailable when the engine disconnects, and can be repeated on a new stream."""
    event = b'{"Action":"die","Actor":{"Attributes":{"name":"c"}}}\n'
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    async with serving(VERSION, Served(raw=HEAD), Served(raw=HEAD + chunk)) as server:
        watch = EventWatch(Engine(server.path), SystemClock(), "me")

        async def look(event: Event) -> str | None:
            return event.get("Action")

        with pytest.raises(Unavailable):
            await watch.until("c", look)
        assert "die" == await watch.until("c", look)
        assert {} == watch._waiters
        await watch.close()


async def test_no_listener() -> None:
    """Without an engine a wait is Unavailable at once."""

    async def never(_: Event) -> None:
        return None

    with pytest.raises(Unavailable):
        await EventWatch(Engine("/no/such/socket"), SystemClock(), "me").until("c", never)


@pytest.mark.node
@needs("dockerd", "busybox", "catatonit")
async def test_one_stream_for_all(engine: Dockerd, tmp_path: Path) -> None:
    """Any number of waits share one stream of events; each gets the events of its own container."""
    async with Node(tmp_path, engine.socket).running() as node:
        sandbox = await node.sandbox()
        containers = [await node.container(sandbox, f"c{number}", SLEEPS) for number in range(4)]
        waits = [asyncio.create_task(node.backend.wait_container(container)) for container in containers]
        for container in containers:
            await node.backend.kill_container(container, 9)
        assert [137] * 4 == [end.code for end in await asyncio.gather(*waits)]
        await node.clear()
