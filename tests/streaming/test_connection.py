import asyncio
import json
import ssl
import struct

import pytest

from crishim.streaming.connection import Timeouts
from crishim.streaming.flow import Limits
from tests.streaming.children import ChildBackend
from tests.streaming.spdy_client import Remote, spdy
from tests.streaming.worlds import SUCCESS, Scripted, broken, exited, stands_still, until, world

STALL = Timeouts(linger=0.05)
HELD = Limits().unsent + 4 * 64 * 1024  # what is queued, the piece under way, and what the transport may hold


async def test_idle() -> None:
    """A connection on which nothing moves is closed with a failure; a ping is a move."""
    backend = Scripted()
    async with world(backend, timeouts=Timeouts(idle=0.1)) as served, spdy(await served.exec("x")) as client:
        remote = await Remote(client).open("stdout")
        message = "nothing was sent or received for 0.1 s"
        assert broken(f"error executing command in container: {message}") == await remote.status()
        await client.gone.wait()
        backend.go.set()


async def test_stalled_client() -> None:
    """A client that does not read stops its own process at the limit, and no other."""
    backend = ChildBackend()
    async with world(backend) as served, spdy(await served.exec("cat", "/dev/zero")) as stalled:
        await Remote(stalled).open("stdout")
        stalled.reading.clear()
        await stands_still(lambda: backend.written)
        written = backend.written
        connection = served.connection
        assert connection.buffered <= HELD
        for _ in range(5):
            async with spdy(await served.exec("echo", "quick")) as client:
                remote = await Remote(client).open("stdout")
                assert b"quick\n" == await remote.stdout.all()
        assert 5 * len(b"quick\n") == backend.written - written
        assert connection.buffered <= HELD
        stalled.drop()
        await served.harness.services.containers.stop(served.container_id, 0)


async def test_stalled_process() -> None:
    """A process that does not read its stdin stops its client at a bound, and output still comes."""
    backend = Scripted()
    async with world(backend) as served, spdy(await served.exec("x", stdin=True)) as client:
        remote = await Remote(client).open("stdin", "stdout")
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await remote.stdin.send(bytes(65536))
                sent += 65536

        flooding = asyncio.create_task(flood())
        await stands_still(lambda: sent)
        assert served.connection.buffered <= Limits().stream_unread + 64 * 1024
        assert backend.io.stdout is not None
        await backend.io.stdout.write(b"still here")
        await remote.stdout.until(b"still here")
        flooding.cancel()
        backend.go.set()
        assert SUCCESS == await remote.status()


async def test_tiny_frames_are_gathered() -> None:
    """A flood of one-byte frames comes out in pieces, whole and in order."""
    backend = Scripted()
    async with world(backend) as served, spdy(await served.exec("x", stdin=True)) as client:
        remote = await Remote(client).open("stdin", "stdout")
        for number in range(5000):
            await remote.stdin.send(bytes([number % 251]))
        await remote.stdin.finish()
        await client.ping(1)
        await until(lambda: [1] == client.pongs)
        assert backend.io.stdin is not None
        pieces = []
        while piece := await backend.io.stdin.read():
            pieces.append(piece)
        assert bytes(number % 251 for number in range(5000)) == b"".join(pieces)
        assert len(pieces) < 10
        backend.go.set()


async def test_slow_reader_gets_the_tail() -> None:
    """A client that stops reading before the process ends, and resumes long after, gets every byte and the exit status."""
    size = 1024 * 1024
    backend = ChildBackend()
    async with (
        world(backend, timeouts=STALL) as served,
        spdy(await served.exec("sh", "-c", f"head -c {size} /dev/zero; exit 9")) as client,
    ):
        client.reading.clear()
        streams = [await client.start_open(streamtype=kind) for kind in ("error", "stdout")]
        await until(lambda: backend.verbs().count("exec") == 1 and not backend.running)
        await asyncio.sleep(10 * STALL.linger)
        client.reading.set()
        assert size == len(await streams[1].all())
        assert exited(9) == json.loads(await streams[0].all())
        await client.gone.wait()


async def test_client_that_never_closes() -> None:
    """A client that has everything and does not close is left after a while."""
    async with world(timeouts=STALL) as served, spdy(await served.exec("print", "x")) as client:
        await Remote(client).open("stdout")
        await client.gone.wait()
        await until(lambda: not served.server.connections)


async def test_two_hundred_at_once() -> None:
    """Two hundred sessions at once each get their own output and exit code."""
    async with world() as served:

        async def one(number: int) -> None:
            async with spdy(await served.exec("cat", stdin=True)) as client:
                remote = await Remote(client).open("stdin", "stdout")
                await remote.stdin.send(b"%d" % number)
                arrived.release()
                await all_there.wait()
                await remote.stdin.finish()
                assert b"%d" % number == await remote.stdout.all()
                assert SUCCESS == await remote.status()

        arrived, all_there = asyncio.Semaphore(0), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(200):
                tasks.create_task(one(number))
            for _ in range(200):
                await arrived.acquire()
            assert 200 == len(served.server.connections)
            all_there.set()


@pytest.mark.parametrize("is_secure", [False, True], ids=["tcp", "tls"])
async def test_full_buffers_at_the_end(certified: tuple[ssl.SSLContext, ssl.SSLContext], is_secure: bool) -> None:
    """What was written when a process ends reaches a client that has stopped reading long before, and then the status."""
    ours, theirs = certified if is_secure else (None, None)
    backend = Scripted()
    async with world(backend, timeouts=STALL, tls=ours) as served, spdy(await served.exec("x"), tls=theirs) as client:
        remote = await Remote(client).open("stdout")
        await backend.started.wait()
        client.reading.clear()
        taken = 0

        async def flood() -> None:
            nonlocal taken
            assert backend.io.stdout is not None
            while True:
                await backend.io.stdout.write(bytes(60_000))
                taken += 60_000

        flooding = asyncio.create_task(flood())
        await stands_still(lambda: taken)
        assert served.connection.buffered >= Limits().unsent
        backend.go.set()
        with pytest.raises(BrokenPipeError):
            await flooding
        await asyncio.sleep(10 * STALL.linger)
        client.reading.set()
        assert taken == len(await remote.stdout.all())
        assert SUCCESS == await remote.status()
        await client.gone.wait()


async def test_writers_take_turns() -> None:
    """Two writers that wait for room get it in turns, and a large piece of one does not hold the other up."""
    backend = Scripted()
    async with world(backend) as served, spdy(await served.exec("x", stderr=True)) as client:
        remote = await Remote(client).open("stdout", "stderr")
        await backend.started.wait()
        stdout, stderr = backend.io.stdout, backend.io.stderr
        assert stdout is not None
        assert stderr is not None
        client.reading.clear()
        size = 40_000_000
        writing = asyncio.gather(stdout.write(bytes(size)), stderr.write(bytes(size)))
        await stands_still(lambda: served.connection.buffered)
        assert served.connection.buffered <= HELD
        client.reading.set()
        await until(lambda: len(remote.stdout.content) == size or len(remote.stderr.content) == size)
        assert min(len(remote.stdout.content), len(remote.stderr.content)) > size // 2
        await writing
        backend.go.set()
        assert size == len(await remote.stderr.all())


async def test_writer_of_a_stream_that_is_reset() -> None:
    """A writer that waits for room is released when its stream is reset."""
    backend = Scripted()
    async with world(backend) as served, spdy(await served.exec("x")) as client:
        remote = await Remote(client).open("stdout")
        await backend.started.wait()
        assert backend.io.stdout is not None
        client.reading.clear()
        writing = asyncio.create_task(backend.io.stdout.write(bytes(40_000_000)))
        await stands_still(lambda: served.connection.buffered)
        assert not writing.done()
        await remote.stdout.give_up()
        with pytest.raises(BrokenPipeError):
            await writing
        client.reading.set()
        backend.go.set()
        assert SUCCESS == await remote.status()


async def test_data_behind_a_refused_stream() -> None:
    """Data that came together with a stream that we reset is passed over."""
    async with world() as served, spdy(await served.forward(), "portforward.k8s.io") as client:
        await client.open(streamtype="error", port="80", requestid="0")
        opening = client.opening(3, streamtype="error", port="80", requestid="0")
        await client.write(opening + struct.pack(">II", 3, 9) + b"passed by")
        await client.streams[3].ended.wait()
        assert 5 == client.streams[3].reset_with
        data = await client.open(streamtype="data", port="80", requestid="0")
        await data.send(b"fine", fin=True)
        assert b"fine" == await data.all()
