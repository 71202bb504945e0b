import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from crishim.backends.process.container import ProcessContainer
from crishim.errors import InvalidArgument, NotFound, ResourceExhausted
from crishim.interfaces.capabilities import ProcessIO
from crishim.logs import execution
from crishim.model.process import ExecSpec, TerminalSize
from crishim.model.values import ContainerId, FrozenDict
from crishim.testing.conformance.offers import Sink, Source
from tests.backends.process.world import alive, descriptors, pod, until


class Slow(Sink):
    """Takes one piece, and the next only after `go_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def write(self, data: bytes) -> None:
        await super().write(data)
        await self.go.wait()


class Broken(Sink):
    async def write(self, data: bytes) -> None:
        raise BrokenPipeError


class Failing(Source):
    async def read(self) -> bytes:
        raise ValueError("no more of this")


async def test_an_exec_is_in_the_container_s_surroundings() -> None:
    """An exec has the container's environment and folder, and TERM with a terminal; its end is its own."""
    async with pod() as it:
        env = FrozenDict({"PATH": "/usr/bin:/bin", "A": "1", "TERM": "vt100"})
        spec = await it.start("exec sleep 1000", env=env, cwd="/tmp")
        out, err = Sink(), Sink()
        end = await it.sh(spec.id, "echo $A $TERM $PWD; echo no >&2; exit 200", ProcessIO(stdout=out, stderr=err))
        assert (200, b"1 vt100 /tmp\n", b"no\n") == (end.code, out.data, err.data)
        out = Sink()
        end = await it.sh(spec.id, "echo $A $TERM; kill -15 $$", ProcessIO(stdout=out), tty=True)
        assert (143, b"1 xterm\r\n") == (end.code, out.data)


async def test_an_exec_with_a_terminal() -> None:
    """With tty an exec has a terminal of its own: sized, typed into, one stream, and ended by the end of the client's input."""

    async def sizes() -> AsyncIterator[TerminalSize]:
        yield TerminalSize(100, 30)

    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        source, out = Source(), Sink()
        script = "stty -echo; echo ready >&2; read line </dev/tty; stty size; echo $line; cat; echo end"
        running = asyncio.create_task(it.sh(spec.id, script, ProcessIO(stdin=source, stdout=out, sizes=sizes()), tty=True))
        await out.has(b"ready\r\n")
        source.feed(b"typed\nmore")
        source.end()
        assert 0 == (await running).code
        assert out.data == b"ready\r\n30 100\r\ntyped\r\nmoreend\r\n"


async def test_a_slow_client_slows_its_exec_alone() -> None:
    """An exec's output waits for its client: little is buffered, nothing is lost, and other execs continue."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        slow = Slow()
        running = asyncio.create_task(it.sh(spec.id, "head -c 5000000 /dev/zero", ProcessIO(stdout=slow)))
        await slow.has(b"\0")
        quick = Sink()
        assert 0 == (await it.sh(spec.id, "head -c 5000000 /dev/zero", ProcessIO(stdout=quick))).code
        assert len(quick.data) == 5_000_000
        assert len(slow.data) <= 65536
        assert not running.done()
        slow.go.set()
        assert 0 == (await running).code
        assert len(slow.data) == 5_000_000


async def test_a_slow_client_gets_all_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an ended exec left in its pipe is handed over however long the client takes, the grace for others being over."""
    monkeypatch.setattr(execution, "GRACE", 0.01)
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        slow, err = Slow(), Sink()
        script = "echo one; sleep 1000 & echo $! $$ >&2; exec head -c 60000 /dev/zero"
        running = asyncio.create_task(it.sh(spec.id, script, ProcessIO(stdout=slow, stderr=err)))
        await err.has(b"\n")
        others, own = err.data.split()
        await until(lambda: not alive(own))
        await asyncio.sleep(0.05)
        assert not running.done()
        slow.go.set()
        assert 0 == (await running).code
        assert (True, len(b"one\n") + 60000) == (alive(others), len(slow.data))


async def test_streams_that_were_not_requested() -> None:
    """Unwanted output is discarded, unwanted input empty, and a client that stops reading does not end the exec."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        assert 7 == (await it.sh(spec.id, "cat; head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 7")).code
        out = Sink()
        io = ProcessIO(stdout=Broken(), stderr=out)
        assert 7 == (await it.sh(spec.id, "head -c 1000000 /dev/zero; echo on >&2; exit 7", io)).code
        assert out.data == b"on\n"
        assert 7 == (await it.sh(spec.id, "head -c 1000000 /dev/zero; exit 7", tty=True)).code


async def test_input_that_is_not_read_or_breaks_off() -> None:
    """An exec that does not read its input ends as it likes; input that breaks off is its end, with a word in the log."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        source = Source()
        source.feed(bytes(10_000_000))
        assert 3 == (await it.sh(spec.id, "exec <&-; sleep 0.05; exit 3", ProcessIO(stdin=source))).code
        running = asyncio.create_task(it.sh(spec.id, "exit 4", ProcessIO(stdin=Failing())))
        assert 4 == (await running).code


@pytest.mark.parametrize("tty", [False, True])
async def test_a_cancelled_exec_is_dead_to_the_last_process(*, tty: bool) -> None:
    """When an exec's cancellation returns, all its processes have ended, stubborn ones too, and the container runs."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        before = descriptors()
        out = Sink()
        script = "trap '' TERM HUP INT; (sleep 1000 & echo $!; wait) & setsid sleep 1000 & echo $! $$; echo ready; wait"
        running = asyncio.create_task(it.sh(spec.id, script, ProcessIO(stdin=Source(), stdout=out), tty=tty))
        await until(lambda: len(out.data.split()) == 4)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert [] == [pid for pid in out.data.split() if pid != b"ready" and alive(pid)]
        assert before == descriptors()
        assert 0 == (await it.sh(spec.id, "exit 0")).code


async def test_what_an_exec_leaves_behind_lives_as_long_as_the_container() -> None:
    """A background process of an exec does not hold up the exec, lives on, counts as the container's, and ends with it."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        out = Sink()
        assert 0 == (await it.sh(spec.id, "sleep 1000 & echo $!", ProcessIO(stdout=out))).code
        (pid,) = out.data.split()
        assert alive(pid)
        usage = await it.backend.container_usage(spec.id)
        assert usage.process is not None
        assert usage.process.process_count == 2
        await it.backend.kill_container(spec.id, signal.SIGKILL)
        await it.wait(spec.id)
        assert not alive(pid)


async def test_an_exec_ends_with_its_container() -> None:
    """The end of the container is the end of its execs: killed, as the exit says."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        out = Sink()
        running = asyncio.create_task(it.sh(spec.id, "echo ready; exec sleep 1000", ProcessIO(stdout=out)))
        await out.has(b"ready")
        await it.backend.kill_container(spec.id, signal.SIGTERM)
        assert 143 == (await it.wait(spec.id)).code
        assert 137 == (await running).code


async def test_an_exec_is_collected_by_itself_and_by_its_container() -> None:
    """The end of an exec and that of its container may both collect it, at the same time or one after the other."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        out = Sink()
        running = asyncio.create_task(it.sh(spec.id, "echo ready; exec sleep 1000", ProcessIO(stdout=out)))
        await out.has(b"ready")
        container = it.backend._containers[spec.id]
        assert isinstance(container, ProcessContainer)
        (session,) = container._execs.values()
        os.kill(session.identity.pid, signal.SIGKILL)
        await asyncio.wait_for(session.ended(), 30)
        await asyncio.gather(*(container._collect(session) for _ in range(3)))
        assert 137 == (await running).code
        assert ({}, set()) == (container._execs, container._left)
        await it.backend.kill_container(spec.id, signal.SIGTERM)
        assert 143 == (await it.wait(spec.id)).code


@pytest.mark.parametrize("tty", [False, True])
async def test_an_exec_of_nothing_leaves_nothing(*, tty: bool) -> None:
    """A program that cannot be run raises InvalidArgument, an unknown container NotFound, and no descriptor is left."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        before = descriptors()
        io = ProcessIO(stdin=Source(), stdout=Sink(), stderr=Sink())
        with pytest.raises(InvalidArgument):
            await it.backend.exec(spec.id, ExecSpec(argv=("/no/such",), tty=tty), io)
        with pytest.raises(NotFound):
            await it.backend.exec(ContainerId("nobody"), ExecSpec(argv=("true",)), io)
        assert before == descriptors()


@pytest.mark.parametrize(("call", "tty"), [("pipe", False), ("openpty", True), ("dup", True)])
async def test_an_exec_without_descriptors_is_refused(monkeypatch: pytest.MonkeyPatch, call: str, *, tty: bool) -> None:
    """When descriptors run out an exec raises ResourceExhausted, and what it has opened is closed."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        before = descriptors()

        def refuse(*_: object) -> int:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(ResourceExhausted, match="Too many open files"):
                await it.sh(spec.id, "true", ProcessIO(stdin=Source()), tty=tty)
        assert before == descriptors()


async def test_many_execs_beside_each_other() -> None:
    """Forty execs at once have each its own streams, and leave no descriptor."""
    async with pod() as it:
        spec = await it.start("exec sleep 1000")
        before = descriptors()

        async def copy(number: int) -> bytes:
            source, out = Source(), Sink()
            source.feed(b"%d" % number)
            source.end()
            await it.sh(spec.id, "cat", ProcessIO(stdin=source, stdout=out))
            return out.data

        assert [b"%d" % number for number in range(40)] == await asyncio.gather(*map(copy, range(40)))
        assert before == descriptors()
