"""The clients' matrix over the process backend: real programs, real terminals, real ports."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crishim.backends.process import ProcessBackend
from crishim.interfaces.backend import BackendContext
from crishim.system import SystemClock
from tests.streaming.raw import closed
from tests.streaming.spdy_client import Remote, spdy
from tests.streaming.websocket_client import tunnel, websocket
from tests.streaming.worlds import SUCCESS, World, exited, until, world

SLEEP = ("sleep", "1000")


@contextlib.asynccontextmanager
async def processes(folder: Path, *cmd: str, **container: Any) -> AsyncIterator[World]:
    backend = ProcessBackend(BackendContext(state=folder / "state", runtime_state=folder / "run", clock=SystemClock()))
    try:
        async with world(backend, cmd=cmd or SLEEP, container=container) as served:
            yield served
    finally:
        await backend.close()


async def test_exec(tmp_path: Path) -> None:
    """A program's input, both outputs and its exit code go through, whole."""
    sent = bytes(range(256)) * 20_000
    async with processes(tmp_path) as served:
        url = await served.exec("sh", "-c", "cat; echo err >&2; exit 7", stdin=True, stderr=True)
        async with spdy(url) as client:
            remote = await Remote(client).open("stdin", "stdout", "stderr")
            await remote.stdin.send(sent, fin=True)
            assert (sent, b"err\n", exited(7)) == (await remote.stdout.all(), await remote.stderr.all(), await remote.status())


async def test_killed(tmp_path: Path) -> None:
    """A program that a signal killed has 128 and the signal's number for its exit code."""
    async with processes(tmp_path) as served, spdy(await served.exec("sh", "-c", "kill -TERM $$")) as client:
        remote = await Remote(client).open("stdout")
        assert exited(143) == await remote.status()


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_terminal(tmp_path: Path, transport: str) -> None:
    """A program on a terminal is signalled when the client's window changes, and Ctrl-D ends its input."""
    script = "stty -echo; trap 'stty size' WINCH; stty size; echo $TERM; while read line; do echo got $line; done; exit 6"
    async with processes(tmp_path) as served:
        url = await served.exec("sh", "-c", script, tty=True, stdin=True)
        if transport == "spdy":
            async with spdy(url) as client:
                remote = await Remote(client).open("stdin", "stdout", "resize")
                await remote.resize.send(b'{"Width":80,"Height":24}')
                await remote.stdout.until(b"xterm\r\n")
                await remote.resize.send(b'{"Width":120,"Height":40}')
                await remote.stdin.send(b"word\n")
                await remote.stdout.until(b"got word\r\n")
                await remote.stdin.send(b"\x04")
                output = await remote.stdout.all()
                assert exited(6) == await remote.status()
        else:
            async with websocket(url, "v5.channel.k8s.io") as web:
                await web.send(b'\x04{"Width":80,"Height":24}')
                await web.until(1, b"xterm\r\n")
                await web.send(b'\x04{"Width":120,"Height":40}')
                await web.send(b"\x00word\n")
                await web.until(1, b"got word\r\n")
                await web.send(b"\x00\x04")
                await web.gone.wait()
                output = web.channel(1)
                assert exited(6) == json.loads(web.channel(3))
        assert b"40 120\r\n" in output


async def test_attach(tmp_path: Path) -> None:
    """Attached clients get the output from then on; one disconnects and the others stay; the last gets the container's end."""
    script = "while read line; do echo got $line; done"
    async with (
        processes(tmp_path, "sh", "-c", script, stdin=True) as served,
        spdy(await served.attach(stdin=True)) as one,
        websocket(await served.attach(), "v5.channel.k8s.io") as other,
    ):
        first = await Remote(one).open("stdin", "stdout")
        await first.stdin.send(b"1\n")
        await first.stdout.until(b"got 1\n")
        one.drop()
        await until(lambda: 1 == len(served.server.connections))
        async with spdy(await served.attach(stdin=True)) as later:
            second = await Remote(later).open("stdin", "stdout")
            await second.stdin.send(b"2\n")
            assert b"got 2\n" == await second.stdout.until(b"got 2\n")
            await other.until(1, b"got 2\n")
            await served.harness.services.containers.stop(served.container_id, 0)
            assert SUCCESS == await second.status()
        await other.gone.wait()
        assert SUCCESS == json.loads(other.channel(3))


async def test_slow_attacher_is_dropped(tmp_path: Path) -> None:
    """An attached client that does not read is dropped; the container and the other client continue."""
    size = 30_000_000
    script = f"read line; head -c {size} /dev/zero; echo; echo all of it; sleep 1000"
    async with (
        processes(tmp_path, "sh", "-c", script, stdin=True) as served,
        spdy(await served.attach()) as slow,
        spdy(await served.attach(stdin=True)) as quick,
    ):
        await Remote(slow).open("stdout")
        slow.reading.clear()
        remote = await Remote(quick).open("stdin", "stdout")
        await remote.stdin.send(b"go\n")
        await until(lambda: remote.stdout.content.endswith(b"all of it\n"))
        assert size + len(b"\nall of it\n") == len(remote.stdout.content)
        slow.reading.set()
        await slow.gone.wait()
        assert len(slow.streams[3].content) < size


async def test_stdin_once(tmp_path: Path) -> None:
    """With stdin_once, the end of the first attachment's stdin is the end of the container's."""
    async with (
        processes(tmp_path, "sh", "-c", "cat; echo over", stdin=True, stdin_once=True) as served,
        spdy(await served.attach(stdin=True)) as client,
    ):
        remote = await Remote(client).open("stdin", "stdout")
        await remote.stdin.send(b"words\n", fin=True)
        assert b"words\nover\n" == await remote.stdout.all()
        assert SUCCESS == await remote.status()


@pytest.mark.parametrize("over", [spdy, tunnel])
async def test_port_forward(tmp_path: Path, over: Any) -> None:
    """Ports of the pod are reached, the half-closed response comes back, and only the refused port gets an error."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        await closed(writer)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    names = ("portforward.k8s.io",) if over is spdy else ()
    async with listener, processes(tmp_path) as served, over(await served.forward(), *names) as client:
        good = [await client.open(streamtype=kind, port=str(port), requestid="0") for kind in ("error", "data")]
        bad = [await client.open(streamtype=kind, port="1", requestid="1") for kind in ("error", "data")]
        assert b"no listener on port 1" in await bad[0].all()
        await good[1].send(bytes(200_000) + b"end", fin=True)
        assert b"dne" + bytes(200_000) == await good[1].all()
        assert b"" == await good[0].all()
