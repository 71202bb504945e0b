"""Exec and attach on real containers: bytes, ends, terminals, and clients that leave."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crishim.backends.docker import streams
from crishim.errors import FailedPrecondition, InvalidArgument, Unavailable
from crishim.interfaces.capabilities import ProcessIO
from crishim.linux import processes
from crishim.model.process import ExecSpec, TerminalSize
from crishim.testing.conformance.offers import Sink, Source
from tests.backends.docker.node import SLEEPS, Node
from tests.backends.docker.world import Dockerd, dockerd, needs

pytestmark = [pytest.mark.node, needs("dockerd", "busybox", "catatonit")]

SHELL = ("sh", "-c")


class Slow:
    """A client that reads nothing."""

    def __init__(self) -> None:
        self.writing = asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.writing.set()
        await asyncio.Event().wait()


async def sizes() -> AsyncIterator[TerminalSize]:
    yield TerminalSize(101, 33)
    await asyncio.Event().wait()


async def test_exec_copies_much(engine: Dockerd, tmp_path: Path) -> None:
    """Twenty megabytes go in and come out again, to the last byte, after the end of the input."""
    data = b"0123456789abcdef" * (20 << 16)
    async with Node(tmp_path, engine.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", SLEEPS)
        source, out = Source(), Sink()
        for start in range(0, len(data), 1 << 20):
            source.feed(data[start : start + (1 << 20)])
        source.end()
        end = await node.backend.exec(container, ExecSpec(argv=("cat",)), ProcessIO(stdin=source, stdout=out))
        assert (0, hashlib.sha256(data).digest()) == (end.code, hashlib.sha256(out.data).digest())
        await node.clear()


async def test_exec_tails_are_whole(engine: Dockerd, tmp_path: Path) -> None:
    """The last output of short processes is never lost, many at once."""
    async with Node(tmp_path, engine.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", SLEEPS)

        async def run(number: int) -> tuple[int, bytes, bytes]:
            out, err = Sink(), Sink()
            spec = ExecSpec(argv=(*SHELL, f"echo out {number}; echo err {number} >&2; exit {number}"))
            end = await node.backend.exec(container, spec, ProcessIO(stdout=out, stderr=err))
            return end.code, out.data, err.data

        seen = await asyncio.gather(*(run(number) for number in range(12)))
        assert [(number, b"out %d\n" % number, b"err %d\n" % number) for number in range(12)] == list(seen)
        await node.clear()


async def test_exec_with_a_terminal(engine: Dockerd, tmp_path: Path) -> None:
    """A terminal has its size, TERM, and one stream; the end of the input is its end-of-file character."""
    async with Node(tmp_path, engine.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", SLEEPS)
        source, out = Source(), Sink()
        script = "while [ \"$(stty size)\" != '33 101' ]; do sleep 0.05; done; echo $TERM; cat; exit 9"
        io = ProcessIO(stdin=source, stdout=out, sizes=sizes())
        running = asyncio.create_task(node.backend.exec(container, ExecSpec(argv=(*SHELL, script), tty=True), io))
        await out.has(b"xterm\r\n")
        source.feed(b"typed\n")
        source.end()
        assert 9 == (await running).code
        assert b"typed\r\ntyped\r\n" in out.data
        await node.clear()


async def test_a_program_that_cannot_be_run(engine: Dockerd, tmp_path: Path) -> None:
    """A missing program is refused; a program's own 127 is its exit."""
    async with Node(tmp_path, engine.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", SLEEPS)
        with pytest.raises(InvalidArgument):
            await node.backend.exec(container, ExecSpec(argv=("/no/such",)), ProcessIO())
        assert 127 == (await node.backend.exec(container, ExecSpec(argv=(*SHELL, "exit 127")), ProcessIO())).code
        await node.services.containers.stop(container, 0)
        with pytest.raises(FailedPrecondition):
            await node.backend.exec(container, ExecSpec(argv=("true",)), ProcessIO())
        with pytest.raises(FailedPrecondition):
            await node.backend.attach(container, ProcessIO())
        await node.clear()


async def test_cancelled_execs_leave_no_process(engine: Dockerd, tmp_path: Path) -> None:
    """An exec that is cancelled is killed with all that it has started."""
    async with Node(tmp_path, engine.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", SLEEPS)
        out = Sink()
        script = "sleep 4711 & echo started; sleep 4711"
        running = asyncio.create_task(node.backend.exec(container, ExecSpec(argv=(*SHELL, script)), ProcessIO(stdout=out)))
        await out.has(b"started")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        left = [pid for pid, process in processes.all_processes().items() if not process.ended and b"4711" in command(pid)]
        assert [] == left
        await node.clear()


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def test_a_slow_client_is_dropped(engine: Dockerd, tmp_path: Path) -> None:
    """An attached client that does not read is dropped, and holds up neither the container nor its log."""
    script = "cat > /dev/null; i=0; while [ $i -lt 4000 ]; do i=$((i+1)); head -c 999 /dev/zero; echo; done; exit 3"
    async with Node(tmp_path, engine.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", (*SHELL, script), stdin=True, stdin_once=True)
        source = Source()
        source.end()
        attached = asyncio.create_task(node.backend.attach(container, ProcessIO(stdin=source, stdout=Slow())))
        assert 3 == (await node.until_exited(container))[1]
        await attached
        assert 4000 == len(node.log("main"))
        await node.clear()


async def test_a_stalled_exec_is_let_go(engine: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exec whose client does not read ends when its processes were killed; until then the client is waited for."""
    monkeypatch.setattr(streams, "_STALLED", 0.2)
    async with Node(tmp_path, engine.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", SLEEPS)
        client = Slow()
        argv = (*SHELL, "while :; do head -c 65536 /dev/zero; done")
        running = asyncio.create_task(node.backend.exec(container, ExecSpec(argv=argv), ProcessIO(stdout=client)))
        await asyncio.wait_for(client.writing.wait(), 30)
        assert set() == (await asyncio.wait({running}, timeout=1))[0]
        await node.services.containers.stop(container, 0)
        async with asyncio.timeout(30):
            assert 0 != (await running).code  # 137, or 126 where the engine collects it late
        await node.clear()


@pytest.fixture
def mortal() -> Iterator[Dockerd]:
    """An engine of the test's own, to be killed."""
    with dockerd() as running:
        yield running


async def test_the_engine_goes_away_from_an_attach(mortal: Dockerd, tmp_path: Path) -> None:
    """An attach whose engine dies is an error, and no end of the container."""
    async with Node(tmp_path, mortal.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", (*SHELL, "while :; do echo tick; sleep 0.05; done"))
        out = Sink()
        attached = asyncio.create_task(node.backend.attach(container, ProcessIO(stdout=out)))
        await out.has(b"tick")
        await asyncio.to_thread(mortal.kill)
        with pytest.raises(Unavailable):
            async with asyncio.timeout(30):
                await attached


async def test_input_without_once_stays_open(engine: Dockerd, tmp_path: Path) -> None:
    """Without stdin_once the end of a client's input ends nothing: its output continues, and another client can write."""
    async with Node(tmp_path, engine.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", ("cat",), stdin=True)
        first, out = Source(), Sink()
        one = asyncio.create_task(node.backend.attach(container, ProcessIO(stdin=first, stdout=out)))
        first.feed(b"one\n")
        await out.has(b"one\n")
        first.end()
        second = Source()
        other = asyncio.create_task(node.backend.attach(container, ProcessIO(stdin=second)))
        second.feed(b"two\n")
        await out.has(b"two\n")
        await node.services.containers.stop(container, 0)
        await asyncio.gather(one, other)
        await node.clear()
