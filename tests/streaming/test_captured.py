import json
import struct
from collections.abc import Callable

import pytest

from crishim.testing import FakeBackend
from tests.streaming.children import ChildBackend
from tests.streaming.raw import closed, connected, data_of, frames, spoken
from tests.streaming.worlds import world

Captured = Callable[[str, str], tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("name", "cmd", "stdin"),
    [
        ("exec-spdy", ("sh", "-c", "echo out; echo err >&2; exit 7"), False),
        ("exec-stdin-spdy", ("sh", "-c", "cat; echo end"), True),
    ],
)
async def test_exec(captured: Captured, name: str, cmd: tuple[str, ...], stdin: bool) -> None:
    """The recorded requests of crictl to containerd, sent to us, get the same output and exit, before the client's GOAWAY."""
    head, body = captured(name, "client")
    _, theirs = captured(name, "server")
    opening = body if not stdin else body[: body.index(struct.pack(">II", 3, 1 << 24)) + 8]
    async with world(ChildBackend()) as served:
        url = await served.exec(*cmd, stdin=stdin, stderr=True)
        answer = await spoken(served, replaced(head, url), opening)
        answer_head, _, ours = answer.partition(b"\r\n\r\n")
        assert answer_head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"X-Stream-Protocol-Version: v4.channel.k8s.io" in answer_head
        for stream_id in (3, 5, 7):
            assert data_of(theirs, stream_id) == data_of(ours, stream_id)
        wanted, got = json.loads(data_of(theirs, 1)), json.loads(data_of(ours, 1))
        assert (wanted["status"], wanted.get("details")) == (got["status"], got.get("details"))
        assert 0x80030007 == list(frames(ours))[-1][0]


async def test_terminal(captured: Captured) -> None:
    """Crictl's session on a terminal ends with its exit code here too."""
    head, body = captured("exec-tty-resize-spdy", "client")
    async with world(ChildBackend()) as served:
        url = await served.exec("sh", tty=True, stdin=True)
        _, _, ours = (await spoken(served, replaced(head, url), body)).partition(b"\r\n\r\n")
        assert b"40 120" in data_of(ours, 5)
        assert "3" == json.loads(data_of(ours, 1))["details"]["causes"][0]["message"]


async def test_attach(captured: Captured) -> None:
    """Crictl's line reaches the container that it attached to, and comes back."""
    head, body = captured("attach-spdy", "client")
    backend = FakeBackend(logs_to_disk=False)
    async with world(backend, cmd=("cat",)) as served:
        reader, writer = await connected(served)
        url = await served.attach(stdin=True)
        writer.write(replaced(head, url) + body[: body.index(struct.pack(">II", 3, 1 << 24)) + 8])
        assert b"hello\n" in await reader.readuntil(b"hello\n")
        await closed(writer)


async def test_port_forward(captured: Captured) -> None:
    """Crictl's first request goes through to the port."""
    head, body = captured("portforward-spdy", "client")
    first_end = body.index(struct.pack(">II", 3, 1 << 24)) + 8
    async with world() as served:
        reader, writer = await connected(served)
        writer.write(replaced(head, await served.forward()) + body[:first_end])
        echoed = await reader.readuntil(struct.pack(">II", 3, 1 << 24))
        assert data_of(body[:first_end], 3) in echoed
        assert data_of(body[:first_end], 3).startswith(b"GET / HTTP/1.1\r\n")
        await closed(writer)


@pytest.mark.parametrize("name", ["exec-websocket", "exec-stdin-websocket", "attach-websocket", "portforward-websocket"])
async def test_websocket(captured: Captured, name: str) -> None:
    """Crictl's WebSocket requests, which containerd refuses, are answered by 101 and the requested protocol."""
    head, _ = captured(name, "client")
    async with world() as served:
        urls = {"attach": await served.attach(), "portforward": await served.forward(), "exec": await served.exec("x")}
        reader, writer = await connected(served)
        writer.write(replaced(head, urls[name.partition("-")[0]]))
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        wanted = b"SPDY/3.1+portforward.k8s.io" if name.startswith("port") else b"v5.channel.k8s.io"
        assert b"Sec-WebSocket-Protocol: " + wanted + b"\r\n" in answer
        await closed(writer)


def replaced(head: bytes, url: str) -> bytes:
    """A captured head, asking for another token."""
    method, target, rest = head.split(b" ", 2)
    kind, token = url.rsplit("/", 2)[1:]
    assert f"/{kind}/".encode() == target[: -len(token)]
    return b" ".join((method, f"/{kind}/{token}".encode(), rest))
