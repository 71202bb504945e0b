"""Checks of the capabilities: each is run if the backend claims it."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from crishim.errors import CrishimError, NotFound, Unavailable
from crishim.interfaces.capabilities import (
    ProcessIO,
    SupportsAttach,
    SupportsClose,
    SupportsExec,
    SupportsLogReopen,
    SupportsPause,
    SupportsPortForward,
    SupportsSandboxUpdate,
    SupportsSandboxWait,
    SupportsStats,
    SupportsUpdate,
)
from crishim.linux.processes import with_variable
from crishim.model.container import ContainerState
from crishim.model.features import Feature
from crishim.model.process import ExecSpec
from crishim.model.resources import Resources
from crishim.model.values import ContainerId
from crishim.testing.conformance.candidate import MARK, World, patiently, still_runs, until
from crishim.testing.conformance.examine import Check
from crishim.testing.conformance.logs import read_log

__all__ = ["Sink"]

C = TypeVar("C")


def as_capable(world: World, capability: type[C]) -> C:
    """The backend, which claims the capability."""
    assert world.claims(capability)
    return world.backend  # type: ignore[return-value]  # it claims so


class Sink:
    """A `ByteWriter` that stores everything, and lets a check wait for a text."""

    def __init__(self) -> None:
        self.data = b""
        self._more = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Store a piece."""
        self.data += data
        self._more.set()

    async def has(self, text: bytes) -> None:
        """Return when `text` was written."""

        async def more() -> None:
            while text not in self.data:
                self._more.clear()
                await self._more.wait()

        await patiently(more())


class Source:
    """A `ByteReader` of what was passed to `feed`, which ends after `end`."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Add a piece."""
        self._pieces.put_nowait(data)

    def end(self) -> None:
        """End the stream."""
        self._pieces.put_nowait(b"")

    async def read(self) -> bytes:
        """The next piece."""
        if self._ended:
            return b""
        data = await self._pieces.get()
        self._ended = not data
        return data


async def check_exec_runs_beside(world: World) -> None:
    """exec: run one more process, return when it has exited and all its output is written."""
    backend = as_capable(world, SupportsExec)
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.sleeps())
    out, err = Sink(), Sink()
    io = ProcessIO(stdout=out, stderr=err)
    end = await patiently(backend.exec(spec.id, ExecSpec(argv=world.programs.prints("said")), io))
    assert (0, b"said\n", b"") == (end.code, out.data, err.data)
    out, err = Sink(), Sink()
    await patiently(backend.exec(spec.id, ExecSpec(argv=world.programs.complains("hushed")), ProcessIO(stdout=out, stderr=err)))
    assert (b"", b"hushed\n") == (out.data, err.data)
    end = await patiently(backend.exec(spec.id, ExecSpec(argv=world.programs.fails(42)), ProcessIO()))
    assert 42 == end.code


async def check_exec_copies_stdin(world: World) -> None:
    """exec: the end of `io.stdin` is the end of the process's stdin."""
    backend = as_capable(world, SupportsExec)
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.sleeps())
    source, out = Source(), Sink()
    source.feed(b"one\n")
    source.feed(b"two\n")
    source.end()
    end = await patiently(backend.exec(spec.id, ExecSpec(argv=world.programs.copies()), ProcessIO(stdin=source, stdout=out)))
    assert (0, b"one\ntwo\n") == (end.code, out.data)


async def check_exec_is_killed_when_cancelled(world: World) -> None:
    """exec, cancelled: every process of the exec is killed, the container keeps running, and another exec works."""
    backend = as_capable(world, SupportsExec)
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.sleeps())
    running = asyncio.ensure_future(backend.exec(spec.id, ExecSpec(argv=world.programs.sleeps()), ProcessIO()))
    await asyncio.sleep(0.2)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await still_runs(world, spec.id)
    end = await patiently(backend.exec(spec.id, ExecSpec(argv=world.programs.fails(0)), ProcessIO()))
    assert 0 == end.code


async def check_exec_of_nothing(world: World) -> None:
    """exec: a program that cannot be run raises, or exits with 126 or 127 as in a shell; an unknown container is NotFound."""
    backend = as_capable(world, SupportsExec)
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.sleeps())
    with contextlib.suppress(CrishimError):
        end = await patiently(backend.exec(spec.id, ExecSpec(argv=world.programs.missing()), ProcessIO()))
        assert end.code in {126, 127}
    try:
        await patiently(backend.exec(ContainerId("f" * 64), ExecSpec(argv=world.programs.fails(0)), ProcessIO()))
    except NotFound:
        return
    raise AssertionError("an exec in an unknown container must raise NotFound")


async def check_attach_joins_the_streams(world: World) -> None:
    """attach: several clients get all output from now on; one that disconnects does not affect the container."""
    backend = as_capable(world, SupportsAttach)
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.copies(), stdin=True)
    source, first, second = Source(), Sink(), Sink()
    one = asyncio.ensure_future(backend.attach(spec.id, ProcessIO(stdin=source, stdout=first)))
    other = asyncio.ensure_future(backend.attach(spec.id, ProcessIO(stdout=second)))
    await patiently(_joined(source, second))
    source.feed(b"hello\n")
    await first.has(b"hello\n")
    await second.has(b"hello\n")
    other.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await other
    source.feed(b"still\n")
    await first.has(b"still\n")
    await still_runs(world, spec.id)
    await patiently(world.backend.kill_container(spec.id, 9))
    await patiently(one)


async def _joined(source: Source, sink: Sink) -> None:
    """Feed lines until a client without stdin has one of them: no call says when it has joined."""
    while not sink.data:
        source.feed(b"joined?\n")
        await asyncio.sleep(0.02)


async def check_attach_closes_stdin_once(world: World) -> None:
    """attach: the end of `io.stdin` closes the container's stdin if, and only if, it was created with stdin_once."""
    backend = as_capable(world, SupportsAttach)
    sandbox = await world.sandbox()
    once = await world.run(sandbox, world.programs.copies(), stdin=True, stdin_once=True)
    source, out = Source(), Sink()
    joined = asyncio.ensure_future(backend.attach(once.id, ProcessIO(stdin=source, stdout=out)))
    source.feed(b"last words\n")
    await out.has(b"last words\n")
    source.end()
    assert 0 == (await world.wait(once.id)).code
    await patiently(joined)


async def check_attach_keeps_stdin_open(world: World) -> None:
    """attach: without stdin_once the container's stdin stays open after the end of `io.stdin`, for the next client."""
    backend = as_capable(world, SupportsAttach)
    spec = await world.run(await world.sandbox(), world.programs.copies(), stdin=True)
    for text in (b"first\n", b"second\n"):
        source, out = Source(), Sink()
        joined = asyncio.ensure_future(backend.attach(spec.id, ProcessIO(stdin=source, stdout=out)))
        source.feed(text)
        source.end()
        await out.has(text)
        joined.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await joined
    await still_runs(world, spec.id)


async def check_stats_are_measured(world: World) -> None:
    """container_usage and sandbox_usage: values with times above zero; usage_nano_cores is left to the library."""
    backend = as_capable(world, SupportsStats)
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.sleeps())
    usage = await patiently(backend.container_usage(spec.id))
    groups = [group for group in (usage.cpu, usage.memory, usage.process, usage.swap, usage.io) if group is not None]
    assert groups
    assert all(group.timestamp > 0 for group in groups)
    assert usage.cpu is None or usage.cpu.usage_nano_cores is None
    pod = await patiently(backend.sandbox_usage(sandbox.id))
    assert all(group.timestamp > 0 for group in (pod.cpu, pod.memory) if group is not None)


async def check_update_is_taken(world: World) -> None:
    """update_container: the resources become the container's limits."""
    backend = as_capable(world, SupportsUpdate)
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.sleeps())
    await patiently(backend.update_container(spec.id, Resources(cpu_shares=512, cpu_period=100000)))


async def check_sandbox_update_is_taken(world: World) -> None:
    """update_sandbox: takes the pod's new sums."""
    backend = as_capable(world, SupportsSandboxUpdate)
    sandbox = await world.sandbox()
    await patiently(backend.update_sandbox(sandbox.id, None, Resources(cpu_shares=512)))


async def check_log_is_reopened(world: World) -> None:
    """reopen_log: the file exists at its path on return, and later output goes there."""
    backend = as_capable(world, SupportsLogReopen)
    argv = world.programs.ticks("tick") or world.programs.sleeps()
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, argv)
    log = Path(spec.log_path)
    old = log.with_name("0.log.old")
    log.rename(old)
    await patiently(backend.reopen_log(spec.id))
    assert log.exists()
    if world.programs.ticks("tick") is not None:
        await until(lambda: ("stdout", "tick") in read_log(spec))
        before = old.read_bytes()
        await asyncio.sleep(0.2)
        assert before == old.read_bytes()


async def check_pause_stops_and_resumes(world: World) -> None:
    """pause_container and resume_container: a paused container can be resumed and killed."""
    backend = as_capable(world, SupportsPause)
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.sleeps())
    await patiently(backend.pause_container(spec.id))
    await patiently(backend.resume_container(spec.id))
    await patiently(world.backend.kill_container(spec.id, 9))
    assert 137 == (await world.wait(spec.id)).code


async def check_refused_port_is_unavailable(world: World) -> None:
    """dial: Unavailable when nothing listens."""
    backend = as_capable(world, SupportsPortForward)
    sandbox = await world.sandbox()
    try:
        await patiently(backend.dial(sandbox.id, 1))
    except Unavailable:
        return
    raise AssertionError("port 1 is open")


async def check_sandbox_can_be_waited_for(world: World) -> None:
    """wait_sandbox returns when the process that the sandbox consists of has ended."""
    backend = as_capable(world, SupportsSandboxWait)
    sandbox = await world.sandbox()
    wait = asyncio.ensure_future(backend.wait_sandbox(sandbox.id))
    await asyncio.sleep(0)
    await patiently(world.backend.stop_sandbox(sandbox.id))
    await patiently(wait)


async def check_close_ends_what_needs_this_process(world: World) -> None:
    """close: containers that cannot run without this process are ended, and those of an engine keep running."""
    assert world.claims(SupportsClose)
    spec = await world.run_ready(await world.sandbox(), world.programs.sleeps())
    await world.close_and_restart()
    seen, candidate = await world.seen(spec.id), world.candidate
    runs = seen is not None and seen.state is ContainerState.RUNNING
    if not runs:
        await until(lambda: [] == with_variable(MARK, candidate.mark))
    assert runs or not (candidate.survives_restart and candidate.streams_survive), "a container of the engine has ended"
    assert candidate.survives_restart or not runs, "a container that cannot run without this process is shown as running"


NEEDS: Mapping[Check, type] = {
    check_exec_runs_beside: SupportsExec,
    check_exec_copies_stdin: SupportsExec,
    check_exec_is_killed_when_cancelled: SupportsExec,
    check_exec_of_nothing: SupportsExec,
    check_attach_joins_the_streams: SupportsAttach,
    check_attach_closes_stdin_once: SupportsAttach,
    check_attach_keeps_stdin_open: SupportsAttach,
    check_stats_are_measured: SupportsStats,
    check_update_is_taken: SupportsUpdate,
    check_sandbox_update_is_taken: SupportsSandboxUpdate,
    check_log_is_reopened: SupportsLogReopen,
    check_pause_stops_and_resumes: SupportsPause,
    check_refused_port_is_unavailable: SupportsPortForward,
    check_sandbox_can_be_waited_for: SupportsSandboxWait,
    check_close_ends_what_needs_this_process: SupportsClose,
}
"""The capability of each check."""

OFFER_FEATURES: Final[Mapping[Check, Feature]] = {check_attach_keeps_stdin_open: Feature.STDIN}
"""The feature of each check that is about one."""
