import asyncio
import contextlib
import json
import logging
import ssl
import struct
import zlib

import pytest

from crishim.errors import InvalidArgument, ResourceExhausted, Unavailable
from crishim.model.process import ExecRequest
from crishim.model.values import ContainerId
from crishim.streaming.connection import Timeouts
from crishim.streaming.flow import Limits
from crishim.streaming.server import StreamConfig, StreamServer, Traffic
from crishim.testing import FakeClock
from tests.streaming.children import ChildBackend
from tests.streaming.raw import UPGRADE, closed, connected, frames, refused, still_serves
from tests.streaming.spdy_client import DICTIONARY, HttpRefusal, Remote, control, request, spdy
from tests.streaming.websocket_client import handshake, websocket
from tests.streaming.worlds import SUCCESS, until, world


async def test_urls() -> None:
    """URLs name the kind, hold 8 characters of chance, and lead to the loopback."""
    async with world() as served:
        urls = [await served.exec("x"), await served.attach(), await served.forward()]
        assert served.base_url.startswith("http://127.0.0.1:")
        for kind, url in zip(("exec", "attach", "portforward"), urls, strict=True):
            base, found, token = url.rsplit("/", 2)
            assert (served.base_url, kind, 8) == (base, found, len(token))


async def test_not_serving() -> None:
    """No URL can be had while nothing is served."""
    server = StreamServer()
    request = ExecRequest(container_id=ContainerId("c"), cmd=("x",), stdout=True)
    with pytest.raises(Unavailable):
        server.mint(request)
    async with server.serving(None):  # type: ignore[arg-type]  # never reached
        pass
    with pytest.raises(Unavailable):
        server.mint(request)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_every_address(host: str) -> None:
    """A server on every address requires a base URL."""
    with pytest.raises(InvalidArgument, match="base_url"):
        StreamConfig(host=host)
    assert "http://node:1" == StreamConfig(host=host, base_url="http://node:1").base_url


async def test_traffic_is_counted() -> None:
    """Sessions count by kind from their upgrade on, and their bytes in both directions, while they are open and afterwards."""
    async with world() as served:
        async with spdy(await served.exec("print", "hello")) as client:
            remote = await Remote(client).open("stdout")
            assert b"hello\n" == await remote.stdout.all()
            during = served.server.traffic()["exec"]
        await until(lambda: served.server.traffic()["exec"].open == 0)
        after = served.server.traffic()
    assert (1, 1, True, True) == (during.sessions, during.open, during.received > 0, during.sent > len("hello\n"))
    assert (1, 0, True) == (after["exec"].sessions, after["exec"].open, after["exec"].sent >= during.sent)
    assert Traffic() == after["attach"] == after["portforward"]


async def test_base_url() -> None:
    """With a base URL of its own, its path is expected in requests and nothing else is served."""
    async with world(base_url="http://node.example:10250/streams/") as served:
        url = await served.exec("print", "hello")
        assert url.startswith("http://node.example:10250/streams/exec/")
        path = url.removeprefix("http://node.example:10250")
        assert 404 == (await refused(served.address + path.removeprefix("/streams"), *UPGRADE)).status
        async with spdy(served.address + path) as client:
            remote = await Remote(client).open("stdout")
            assert b"hello\n" == await remote.stdout.all()


@pytest.mark.parametrize("path", ["/", "/exec", "/exec/", "/exec/none", "/exec/a/b", "/logs/abc", "/exec/.."])
async def test_unknown_paths(path: str) -> None:
    """A path that is no stream's is 404."""
    async with world() as served:
        assert 404 == (await refused(served.base_url + path, *UPGRADE)).status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_other_methods(method: str) -> None:
    """A method that is not GET or POST is 405, and does not use the token up."""
    async with world() as served:
        url = await served.exec("print", "x")
        refusal = await refused(url, *UPGRADE, method=method)
        assert 405 == refusal.status
        assert "Allow: GET, POST" in refusal.head
        async with spdy(url) as client:
            await Remote(client).open("stdout")


async def test_get_is_as_good_as_post() -> None:
    """SPDY may begin with GET."""
    async with world() as served, spdy(await served.exec("print", "x"), method="GET") as client:
        remote = await Remote(client).open("stdout")
        assert b"x\n" == await remote.stdout.all()


async def test_token_is_good_once() -> None:
    """A token is used up by the first request, be it accepted or refused."""
    async with world() as served:
        url = await served.exec("print", "x")
        async with spdy(url):
            assert 404 == (await refused(url, *UPGRADE)).status
        url = await served.exec("print", "x")
        assert 400 == (await refused(url)).status
        assert 404 == (await refused(url, *UPGRADE)).status


async def test_path_of_another_kind() -> None:
    """A token of an exec does not attach, and is used up by the attempt."""
    async with world() as served:
        url = await served.exec("print", "x")
        assert 404 == (await refused(url.replace("/exec/", "/attach/"), *UPGRADE)).status
        assert 404 == (await refused(url, *UPGRADE)).status


async def test_token_gets_old() -> None:
    """A token is good for a minute."""
    clock = FakeClock()
    async with world(clock=clock) as served:
        young, old = await served.exec("print", "x"), await served.exec("print", "x")
        await clock.advance(59)
        async with spdy(young):
            pass
        await clock.advance(1)
        assert 404 == (await refused(old, *UPGRADE)).status


async def test_a_thousand_tokens() -> None:
    """At most a thousand tokens may be outstanding."""
    async with world() as served:
        for _ in range(1000):
            await served.exec("x")
        with pytest.raises(ResourceExhausted):
            await served.exec("x")


@pytest.mark.parametrize(
    ("head", "status", "words"),
    [
        ((), 400, "X-Stream-Protocol-Version header is required"),
        (("X-Stream-Protocol-Version: v4.channel.k8s.io",), 400, "unable to upgrade: missing upgrade headers"),
        (("Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v9"), 403, "none of the offered"),
        (handshake("v9.channel.k8s.io"), 403, "none of the offered"),
        ([line.replace("13", "8") for line in handshake()], 426, "version 13"),
        ((*UPGRADE, "Content-Length: 5"), 400, "has no body"),
        ((*UPGRADE, "Transfer-Encoding: chunked"), 400, "has no body"),
    ],
)
async def test_refused_upgrades(head: tuple[str, ...], status: int, words: str) -> None:
    """A refused upgrade has its reason."""
    async with world() as served:
        refusal = await refused(await served.exec("x"), *head)
        assert status == refusal.status
        assert words in refusal.body


async def test_accepted_protocols_are_named() -> None:
    """A client without a served protocol gets the list of those served."""
    async with world() as served:
        head = ("Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v9")
        refusal = await refused(await served.exec("x"), *head)
        for name in ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"):
            assert f"X-Accepted-Stream-Protocol-Versions: {name}\r\n" in refusal.head


@pytest.mark.parametrize("ports", [0, 128])
async def test_ports_for_channels(ports: int) -> None:
    """Port-forward by channels needs 1 to 127 ports."""
    async with world() as served:
        refusal = await refused(await served.forward(*range(1, ports + 1)), *handshake("v4.channel.k8s.io"), method="GET")
        assert 400 == refusal.status


async def test_tls(certified: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """With TLS the URL says https, and the last byte and the status arrive over it."""
    ours, theirs = certified
    async with world(ChildBackend(), tls=ours, timeouts=Timeouts(linger=0.05)) as served:
        url = await served.exec("sh", "-c", "head -c 3000000 /dev/zero; exit 2")
        assert url.startswith("https://127.0.0.1:")
        async with spdy(url, tls=theirs) as client:
            remote = await Remote(client).open("stdout")
            assert 3_000_000 == len(await remote.stdout.all())
            assert "2" == (await remote.status())["details"]["causes"][0]["message"]
            await client.gone.wait()
        async with websocket(await served.exec("cat", stdin=True), "v5.channel.k8s.io", tls=theirs) as socket_client:
            await socket_client.send(b"\x00" + bytes(500_000))
            await socket_client.send(b"\xff\x00")
            await socket_client.gone.wait()
            assert 500_000 == len(socket_client.channel(1))
            assert SUCCESS == json.loads(socket_client.channel(3))
        with pytest.raises(HttpRefusal):
            await request(served.base_url + "/nowhere", (), tls=theirs)


async def test_stop_with_connections_in_every_state() -> None:
    """Leaving the server closes silent connections, half heads, refused ones and running sessions."""
    async with world(timeouts=Timeouts(linger=0.05)) as served:
        clients = [await connected(served) for _ in range(3)]
        clients[1][1].write(b"POST /exec/")
        clients[2][1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(3):
            reader, writer, _ = await request(await served.exec("sleep"), UPGRADE)
            clients.append((reader, writer))
        await until(lambda: 3 == len(served.server._pending) and 3 == len(served.server.connections))
    for reader, writer in clients:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        await closed(writer)


async def test_server_serves_again() -> None:
    """A server that was left can serve again."""
    server = StreamServer()
    for _ in range(2):
        async with server.serving(None) as base_url:  # type: ignore[arg-type]  # never reached
            assert 404 == (await refused(base_url + "/")).status


@pytest.mark.parametrize(
    "wire",
    [
        bytes(64),
        b"\xff" * 64,
        control(1, b"\0\0\0\1\0\0\0\0\0\0not deflated"),
        control(3, b"\0\0\0\1"),
        control(1, bytes(30_000)),
    ],
)
async def test_garbage_frames(wire: bytes) -> None:
    """Frames that cannot be read end the connection with GOAWAY, protocol error, and nothing else."""
    async with world() as served:
        reader, writer, _ = await request(await served.exec("x"), UPGRADE)
        writer.write(wire)
        assert [(0x80030007, 0, struct.pack(">II", 0, 1))] == list(frames(await reader.read()))
        await closed(writer)
        assert await still_serves(served)


async def test_header_bomb() -> None:
    """A header block that would inflate to 100 MB is refused at the bound."""
    async with world() as served:
        bomb = zlib.compressobj(9, zdict=DICTIONARY)
        block = bomb.compress(struct.pack(">III", 1, 1, 0) + bytes(100_000_000)) + bomb.flush(zlib.Z_SYNC_FLUSH)
        for body in (block, block[: Limits().control_frame - 100]):
            reader, writer, _ = await request(await served.exec("x"), UPGRADE)
            writer.write(control(1, struct.pack(">IIH", 1, 0, 0) + body))
            assert [(0x80030007, 0, struct.pack(">II", 0, 1))] == list(frames(await reader.read()))
            await closed(writer)


async def test_duplicate_stream_id() -> None:
    """A stream id that is used again costs the stream that has it."""
    async with world() as served, spdy(await served.exec("cat", stdin=True)) as client:
        remote = await Remote(client).open("stdin", "stdout")
        await remote.stdin.send(b"before")
        await remote.stdout.until(b"before")
        again = await client.start_open(remote.stdin.number, streamtype="stdin")
        await again.ended.wait()
        assert 1 == again.reset_with
        assert SUCCESS == await remote.status()


@pytest.mark.parametrize("close_code", [b"\x88\x80\0\0\0\0", b"\x82\x05plain", b"\xf2\x80\0\0\0\0"])
async def test_websocket_garbage(close_code: bytes) -> None:
    """WebSocket frames that break RFC 6455 end the connection; a Close is answered."""
    async with world() as served:
        reader, writer, _ = await request(await served.exec("x"), handshake("v5.channel.k8s.io"), method="GET")
        writer.write(close_code)
        assert b"\x88" in await reader.read()
        await closed(writer)
        assert await still_serves(served)


def test_nothing_is_logged_for_a_plain_session(caplog: pytest.LogCaptureFixture) -> None:
    """A successful session is not logged."""

    async def session() -> None:
        async with world() as served:
            assert await still_serves(served)

    with caplog.at_level(logging.WARNING, logger="crishim"):
        asyncio.run(session())
    assert [] == caplog.records
