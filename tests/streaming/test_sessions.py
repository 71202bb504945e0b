import asyncio
import base64
import contextlib
import json
from pathlib import Path

import pytest

from crishim.errors import Internal
from crishim.model.process import TerminalSize
from crishim.streaming.connection import Timeouts
from crishim.streaming.sessions import LatestSize
from crishim.testing import FakeBackend
from tests.streaming.children import ChildBackend
from tests.streaming.spdy_client import Remote, spdy
from tests.streaming.websocket_client import websocket
from tests.streaming.worlds import SUCCESS, Scripted, broken, exited, until, world

V1, V2, V3, V4 = "channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io", "v4.channel.k8s.io"


async def test_output_and_exit() -> None:
    """Both outputs come apart and whole, and the exit code stands in the status."""
    async with world(ChildBackend()) as served:
        url = await served.exec("sh", "-c", "echo out; echo err >&2; exit 7", stderr=True)
        async with spdy(url) as client:
            remote = await Remote(client).open("stdout", "stderr")
            assert (b"out\n", b"err\n") == (await remote.stdout.all(), await remote.stderr.all())
            assert exited(7) == await remote.status()
            await client.gone.wait()
            assert 0 == client.goaway


async def test_stdin_until_half_close() -> None:
    """A process reads what the client sends, byte for byte, and its EOF while its own output continues."""
    sent = bytes(range(256)) * 8192
    async with world(ChildBackend()) as served, spdy(await served.exec("sh", "-c", "cat; echo end", stdin=True)) as client:
        remote = await Remote(client).open("stdin", "stdout")
        for start in range(0, len(sent), 30_000):
            await remote.stdin.send(sent[start : start + 30_000])
        await remote.stdin.finish()
        assert sent + b"end\n" == await remote.stdout.all()
        assert SUCCESS == await remote.status()


async def test_stdin_reset_is_an_end() -> None:
    """A client that resets stdin ends it."""
    async with world(ChildBackend()) as served, spdy(await served.exec("cat", stdin=True)) as client:
        remote = await Remote(client).open("stdin", "stdout")
        await remote.stdin.give_up()
        assert SUCCESS == await remote.status()


async def test_signal() -> None:
    """An exit by a signal is reported as 128 and the signal's number."""
    async with world(ChildBackend()) as served, spdy(await served.exec("sh", "-c", "kill -KILL $$")) as client:
        remote = await Remote(client).open("stdout")
        assert exited(137) == await remote.status()


@pytest.mark.parametrize("protocol", [V1, V2, V3])
async def test_old_protocols(protocol: str) -> None:
    """Before v4 the error stream holds plain text, and nothing after a success."""
    async with world() as served:
        async with spdy(await served.exec("fail", "3"), protocol) as client:
            remote = await Remote(client).open("stdout")
            assert b"command terminated with non-zero exit code: 3" == await remote.error.all()
        async with spdy(await served.exec("print", "hello"), protocol) as client:
            remote = await Remote(client).open("stdout")
            assert b"hello\n" == await remote.stdout.all()
            assert b"" == await remote.error.all()


async def test_v1_stdin() -> None:
    """v1's server closes its half of stdin at once, and reads the other half."""
    async with world() as served, spdy(await served.exec("cat", stdin=True), V1) as client:
        remote = await Remote(client).open("stdin", "stdout")
        await remote.stdin.ended.wait()
        assert remote.stdin.reset_with is None
        await remote.stdin.send(b"still read", fin=True)
        assert b"still read" == await remote.stdout.all()


async def test_program_that_cannot_run() -> None:
    """A program that is not there is a failure without an exit code."""
    async with world(ChildBackend()) as served, spdy(await served.exec("/no/such")) as client:
        remote = await Remote(client).open("stdout")
        message = "error executing command in container: cmd: exec: '/no/such': no such file"
        assert broken(message) == await remote.status()


async def test_backend_that_breaks_down() -> None:
    """An error of the backend reaches the client as a failure, never as an empty error stream."""
    backend = Scripted()
    backend.end = Internal("out of luck")
    backend.go.set()
    async with world(backend) as served, spdy(await served.exec("x")) as client:
        remote = await Remote(client).open("stdout")
        assert broken("error executing command in container: out of luck") == await remote.status()


async def test_terminal() -> None:
    """A terminal has the client's size from the start, follows it, has no stderr, and ends with the exit code."""
    wait_for = "until [ \"$(stty size)\" = '%s' ]; do sleep 0.01; done; echo %s;"
    script = wait_for % ("24 80", "small") + wait_for % ("40 120", "large") + "exit 5"
    async with world(ChildBackend()) as served, spdy(await served.exec("sh", "-c", script, tty=True, stdin=True)) as client:
        remote = await Remote(client).open("stdin", "stdout", "resize")
        await remote.resize.send(b'{"Width":80,"Height":24}\n')
        await remote.stdout.until(b"small\r\n")
        await remote.resize.send(b'{"Width":120,"Hei')
        await remote.resize.send(b'ght":40}')
        assert b"small\r\nlarge\r\n" == await remote.stdout.all()
        assert exited(5) == await remote.status()


async def test_terminal_without_resize() -> None:
    """v2 clients open no resize stream, and are not waited for."""
    async with world(ChildBackend()) as served, spdy(await served.exec("tty", tty=True), V2) as client:
        remote = await Remote(client).open("stdout")
        assert (await remote.stdout.all()).startswith(b"/dev/")


async def test_broken_resize() -> None:
    """An invalid resize stream is ignored from there on; the session continues."""
    backend = Scripted()
    async with world(backend) as served, spdy(await served.exec("x", tty=True, stdin=True)) as client:
        remote = await Remote(client).open("stdin", "stdout", "resize")
        await backend.started.wait()
        assert backend.io.stdin is not None
        assert backend.io.sizes is not None
        await remote.resize.send(b'{"Width":80,"Height":24}')
        assert TerminalSize(80, 24) == await anext(backend.io.sizes)
        await remote.resize.send(b'{"Width":"wide"}' + b"x" * 600_000)
        await remote.stdin.send(b"typed", fin=True)
        assert [] == [size async for size in backend.io.sizes]
        assert b"typed" == await backend.io.stdin.read()
        backend.go.set()
        assert SUCCESS == await remote.status()


async def test_only_the_newest_size_is_read() -> None:
    """Sizes that were not read are replaced by newer ones."""
    sizes = LatestSize()
    for width in range(1, 1000):
        sizes.put(TerminalSize(width, 24))
    sizes.end()
    assert [TerminalSize(999, 24)] == [size async for size in sizes.follow()]


async def test_streams_that_were_not_requested_are_ignored() -> None:
    """Streams of unknown types, unwanted ones and second ones are passed over, whatever comes on them."""
    async with world() as served, spdy(await served.exec("cat", stdin=True)) as client:
        odd = [await client.open(streamtype=kind) for kind in ("fancy", "stderr", "resize")]
        odd.append(await client.open(other="header"))
        remote = await Remote(client).open("stdin", "stdout")
        odd.append(await client.open(streamtype="stdin"))
        for stream in odd:
            await stream.send(bytes(600_000))
        await remote.stdin.send(b"through", fin=True)
        assert b"through" == await remote.stdout.all()
        assert SUCCESS == await remote.status()


async def test_data_before_the_answer() -> None:
    """A client may send data behind a stream's opening without waiting for the answer."""
    async with world() as served, spdy(await served.exec("cat", stdin=True)) as client:
        streams = [await client.start_open(streamtype=kind) for kind in ("error", "stdin", "stdout")]
        await streams[1].send(b"early", fin=True)
        assert b"early" == await streams[2].all()


async def test_process_starts_when_all_streams_are_there() -> None:
    """The process is run when the last stream of the request is opened, in whatever order they come."""
    backend = Scripted()
    async with world(backend) as served, spdy(await served.exec("x", stdin=True, stderr=True)) as client:
        for kind in ("stderr", "stdout", "stdin"):
            await client.open(streamtype=kind)
        await client.ping(1)
        await until(lambda: [1] == client.pongs)
        assert not backend.started.is_set()
        await client.open(streamtype="error")
        await backend.started.wait()
        assert None not in {backend.io.stdin, backend.io.stdout, backend.io.stderr}
        assert backend.io.sizes is None
        backend.go.set()


async def test_streams_that_never_come() -> None:
    """A client that does not open its streams in time gets the names of the missing ones, and the process is not run."""
    backend = Scripted()
    async with world(backend, timeouts=Timeouts(creation=0.05)) as served:
        async with spdy(await served.exec("x", stdin=True)) as client:
            remote = await Remote(client).open("stdout")
            message = "the client did not open its streams within 0.05 s; missing: stdin"
            assert broken(f"error executing command in container: {message}") == await remote.status()
            await client.gone.wait()
        assert not backend.started.is_set()


async def test_client_leaves_exec(tmp_path: Path) -> None:
    """When the client leaves, an exec'd process sees the end of its stdin, and runs on to its own end."""
    backend = ChildBackend()
    async with world(backend) as served:
        done = tmp_path / "done"
        async with spdy(await served.exec("sh", "-c", f"cat; echo lost; sleep 0.05; touch {done}", stdin=True)) as client:
            remote = await Remote(client).open("stdin", "stdout")
            await remote.stdin.send(b"here")
            await remote.stdout.until(b"here")
            client.drop()
        await until(lambda: not served.server.connections)
        await until(lambda: not backend.running)
        assert done.exists()


async def test_output_is_refused_when_the_client_has_left() -> None:
    """Output for a client that has left is refused with BrokenPipeError, and input is at its end."""
    backend = Scripted()
    async with world(backend) as served:
        async with spdy(await served.exec("x", stdin=True)) as client:
            remote = await Remote(client).open("stdin", "stdout")
            await remote.stdin.send(b"last words")
            await backend.started.wait()
            await client.ping(1)
            await until(lambda: [1] == client.pongs)
        await until(lambda: not served.server.connections)
        assert backend.io.stdin is not None
        assert backend.io.stdout is not None
        assert [b"last words", b"", b""] == [await backend.io.stdin.read() for _ in range(3)]
        with pytest.raises(BrokenPipeError):
            await backend.io.stdout.write(b"x")
        backend.go.set()


async def test_server_stops() -> None:
    """When the server is stopped, exec'd processes are killed and their clients get a failure."""
    backend = Scripted()
    stack = contextlib.AsyncExitStack()
    served = await stack.enter_async_context(world(backend))
    async with spdy(await served.exec("x")) as client:
        remote = await Remote(client).open("stdout")
        await backend.started.wait()
        leaving = asyncio.create_task(stack.aclose())
        assert broken("error executing command in container: the streaming server was stopped") == await remote.status()
        await client.close()
        await leaving
    assert backend.killed


async def test_attach() -> None:
    """Several attachers see the same output, one of them leaves, and the container's end ends the others with success."""
    backend = FakeBackend(logs_to_disk=False)
    async with (
        world(backend, cmd=("cat",)) as served,
        spdy(await served.attach(stdin=True)) as typist,
        spdy(await served.attach()) as watcher,
    ):
        typing = await Remote(typist).open("stdin", "stdout")
        watching = await Remote(watcher).open("stdout")
        await until(lambda: 2 == len(backend.containers[served.container_id].attached))
        await typing.stdin.send(b"hello\n")
        for remote in (typing, watching):
            await remote.stdout.until(b"hello\n")
        typist.drop()
        await until(lambda: 1 == len(served.server.connections))
        backend.exits("main", 3)
        assert SUCCESS == await watching.status()
        assert b"hello\n" == await watching.stdout.all()


async def test_stdin_ends_without_the_attachment() -> None:
    """The end of a client's stdin does not end its attachment."""
    backend = FakeBackend(logs_to_disk=False)
    async with world(backend, cmd=("cat",)) as served, spdy(await served.attach(stdin=True)) as client:
        remote = await Remote(client).open("stdin", "stdout")
        await remote.stdin.send(b"one\n", fin=True)
        await remote.stdout.until(b"one\n")
        backend.exits("main", 0)
        assert SUCCESS == await remote.status()


async def test_stdin_once() -> None:
    """With stdin_once a container's stdin ends with its first attachment's, and so may the container."""
    backend = FakeBackend(logs_to_disk=False)
    container = {"stdin": True, "stdin_once": True}
    async with (
        world(backend, cmd=("cat",), container=container) as served,
        spdy(await served.attach(stdin=True)) as client,
    ):
        remote = await Remote(client).open("stdin", "stdout")
        await remote.stdin.finish()
        assert SUCCESS == await remote.status()


async def test_websocket_v5() -> None:
    """Over v5 the client is greeted on stdout, ends stdin by the close signal, and gets output, status and Close 1000."""
    async with world(ChildBackend()) as served:
        url = await served.exec("sh", "-c", "cat; echo err >&2; exit 4", stdin=True, stderr=True)
        async with websocket(url, "v5.channel.k8s.io") as client:
            await client.send(b"\x00hello")
            await client.send(b"\xff\x00")
            await client.gone.wait()
            assert b"\x01" == client.messages[0]
            assert (b"hello", b"err\n") == (client.channel(1), client.channel(2))
            assert exited(4) == json.loads(client.channel(3))
            assert 1000 == client.close_code


async def test_websocket_terminal() -> None:
    """Over WebSocket a terminal is resized on channel 4, and pings are answered meanwhile."""
    async with world(ChildBackend()) as served:
        script = "until [ \"$(stty size)\" = '24 80' ]; do :; done; echo sized; read line; echo $line"
        async with websocket(await served.exec("sh", "-c", script, tty=True, stdin=True), "v4.channel.k8s.io") as client:
            await client.send(b'\x04{"Width":80,"Height":24}')
            await client.until(1, b"sized")
            await client.ping(b"there?")
            await client.send(b"\x00typed\n")
            await client.gone.wait()
            assert client.channel(1).endswith(b"typed\r\n")
            assert SUCCESS == json.loads(client.channel(3))
            assert [b"there?"] == client.pongs


async def test_websocket_base64() -> None:
    """In the base64 protocols messages are text: a digit and base64."""
    async with world() as served, websocket(await served.exec("cat", stdin=True), "v4.base64.channel.k8s.io") as client:
        await client.send("0" + base64.b64encode(b"\xffbytes").decode())
        await until(lambda: len(client.messages) > 1)
        assert ["1", "1" + base64.b64encode(b"\xffbytes").decode()] == client.messages


async def test_websocket_close_ends_stdin() -> None:
    """Before v5 a client ends stdin by disconnecting: the bytes sent before are read completely."""
    backend = Scripted()
    async with world(backend) as served:
        async with websocket(await served.exec("x", stdin=True)) as client:
            await client.send(b"\x00all of it")
            await client.send_close()
            await client.gone.wait()
            assert 1000 == client.close_code
        assert backend.io.stdin is not None
        assert [b"all of it", b""] == [await backend.io.stdin.read(), await backend.io.stdin.read()]
        backend.go.set()
