# ruff: noqa: ASYNC240 - nothing else runs on these loops, so a short blocking read delays nothing
import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from crishim import __version__
from crishim.backends.process import build
from crishim.errors import (
    AlreadyExists,
    CrishimError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from crishim.interfaces.backend import Backend, BackendContext, BackendInfo, NetnsSource
from crishim.interfaces.capabilities import (
    ProcessIO,
    SupportsAttach,
    SupportsClose,
    SupportsExec,
    SupportsLogReopen,
    SupportsPortForward,
    SupportsStats,
    capabilities,
)
from crishim.model.container import ContainerState
from crishim.model.features import PROCESS, Feature
from crishim.model.process import TerminalSize
from crishim.model.stats import ContainerUsage
from crishim.model.values import FrozenDict
from crishim.testing.conformance import BackendConformance
from crishim.testing.conformance.offers import Sink, Source
from tests.backends.process.world import alive, context, log_lines, pod, until


class TestContract(BackendConformance):
    restores_exit_after_restart = False
    streams_survive_restart = False

    async def make_backend(self, context: BackendContext) -> Backend:
        return build(context)


async def test_who_it_is(tmp_path: Path) -> None:
    """The backend has no network of its own, supported what a plain process can, and claims six capabilities."""
    backend = build(context(tmp_path))
    assert await backend.probe() == BackendInfo(name="process", version=__version__, netns=NetnsSource.NONE, supported=PROCESS)
    six = {SupportsExec, SupportsAttach, SupportsPortForward, SupportsStats, SupportsLogReopen, SupportsClose}
    assert six == capabilities(backend)
    assert not list(tmp_path.iterdir())


async def test_wishes_to_ignore_are_options(tmp_path: Path) -> None:
    """What unsafe_ignore names is supported in name; unknown names, other types and other options are refused by name."""
    backend = build(context(tmp_path, unsafe_ignore=["mounts", "linux.security_context.run_as_user"]))
    assert PROCESS | {Feature.MOUNTS, Feature.USER} == (await backend.probe()).supported
    for options, field in (
        ({"unsafe_ignore": ["mount"]}, "options.unsafe_ignore"),
        ({"unsafe_ignore": "mounts"}, "options.unsafe_ignore"),
        ({"unsafe_ignore": [1]}, "options.unsafe_ignore"),
        ({"unsafe": True}, "options.unsafe"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            build(context(tmp_path, **options))
        assert field == caught.value.field


async def test_the_environment_is_the_spec_s_exactly() -> None:
    """Every variable of the spec is there, in its order, any bytes and names included, and no other."""
    async with pod() as it:
        env = FrozenDict({"PATH": "/usr/bin:/bin", "RAW": "\udcff a=b", "X.Y": ""})
        spec = await it.run(it.spec, ("env", "-0"), env=env)
        await it.wait(spec.id)
        assert [b"PATH=/usr/bin:/bin\0RAW=\xff a=b\0X.Y=\0"] == log_lines(spec)


async def test_nothing_of_ours_is_inherited() -> None:
    """A process has its arguments, its folder, the usual mask and three descriptors, whatever ours are."""
    async with pod() as it:
        argv = ("sh", "-c", 'echo "$1"; pwd; umask; ls /proc/self/fd', "sh", "a  b")
        os.set_inheritable(ours := os.open("/dev/null", os.O_RDONLY), True)
        mask = os.umask(0o077)
        spec = await it.run(it.spec, argv, cwd="/tmp")
        os.umask(mask)
        os.close(ours)
        await it.wait(spec.id)
        assert [b"a  b", b"/tmp", b"0022", b"0", b"1", b"2", b"3"] == log_lines(spec)


@pytest.mark.parametrize("cwd", ["/no/such/folder", "", "no/such"])
async def test_a_folder_that_is_not_there_is_the_root(cwd: str) -> None:
    """The image's folders do not exist on this machine; a missing working directory is `/`."""
    async with pod() as it:
        spec = await it.start("pwd", cwd=cwd)
        await it.wait(spec.id)
        assert [b"/"] == log_lines(spec)


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("argv", [("no-such-program",), ("/etc/passwd",), ("/tmp",), ("",), ("sh", "a\0b")])
async def test_what_cannot_run_is_an_error_of_the_start(argv: tuple[str, ...], *, tty: bool) -> None:
    """A missing or unfit program raises InvalidArgument; nothing runs, and the container can be removed."""
    async with pod() as it:
        spec = await it.create(it.spec, argv, tty=tty)
        with pytest.raises(InvalidArgument, match="cannot be run"):
            await it.backend.start_container(spec.id)
        seen = await it.seen(spec.id)
        assert seen is not None
        assert ContainerState.CREATED is seen.state


async def test_a_program_is_looked_for_in_the_spec_s_path(tmp_path: Path) -> None:
    """PATH is the spec's, not ours."""
    (tmp_path / "only-here").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "only-here").chmod(0o755)
    async with pod() as it:
        for tty in (False, True):
            spec = await it.run(it.spec, ("only-here",), env=FrozenDict({"PATH": str(tmp_path)}), tty=tty)
            assert 3 == (await it.wait(spec.id)).code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, 34])
async def test_the_killed_end_with_128_and_the_signal(number: int) -> None:
    """An exit by a signal is reported as 128 and its number, with the times of start and end."""
    async with pod() as it:
        spec = await it.run(it.spec, ("sleep", "1000"))
        await it.backend.kill_container(spec.id, number)
        end = await it.wait(spec.id)
        assert 128 + number == end.code
        assert end.started_at is not None
        assert end.at is not None
        assert end.started_at < end.at
        assert end == await it.wait(spec.id)


async def test_a_kill_from_elsewhere_is_seen() -> None:
    """A container killed behind our back ends as it was killed."""
    async with pod() as it:
        spec = await it.start("echo $$; exec sleep 1000")
        await until(lambda: bool(log_lines(spec)))
        os.kill(int(log_lines(spec)[0]), signal.SIGKILL)
        assert 137 == (await it.wait(spec.id)).code


@pytest.mark.parametrize("script", ["wait", "exit 0", "kill -9 $$"])
async def test_the_whole_session_ends_with_its_first_process(script: str) -> None:
    """All processes of the container's session are killed when its first process ends, however it does."""
    async with pod() as it:
        spec = await it.start(f"(trap '' HUP TERM; exec sleep 1000) & echo $!; {script}")
        await until(lambda: len(log_lines(spec)) == 1)
        if script == "wait":
            await it.backend.kill_container(spec.id, signal.SIGKILL)
        await it.wait(spec.id)
        await until(lambda: not alive(log_lines(spec)[0]))


async def test_sigkill_reaches_children_that_left_the_session() -> None:
    """SIGKILL ends a child in a session of its own, and the children of that."""
    async with pod() as it:
        spec = await it.start("setsid sh -c 'echo $$; sleep 1000 & echo $!; wait' & wait")
        await until(lambda: len(log_lines(spec)) == 2)
        await it.backend.kill_container(spec.id, signal.SIGKILL)
        assert 137 == (await it.wait(spec.id)).code
        await until(lambda: not any(map(alive, log_lines(spec))))


async def test_a_daemon_that_got_away_does_not_hold_the_container() -> None:
    """A process that left session and parent keeps nothing waiting, though it holds the container's pipes."""
    async with pod() as it:
        spec = await it.start("setsid sh -c 'sleep 1000 & echo $!' & wait; sleep 0.1; echo end")
        assert 0 == (await it.wait(spec.id)).code
        pid, last = log_lines(spec)
        assert last == b"end"
        os.kill(int(pid), signal.SIGKILL)


async def test_other_signals_go_to_the_first_process_alone() -> None:
    """A signal other than SIGKILL is the first process's to handle; an invalid signal is InvalidArgument."""
    async with pod() as it:
        spec = await it.start("sleep 1000 & echo $!; trap 'kill -0 $! && echo heard; exit 5' USR1; echo ready; wait")
        await until(lambda: b"ready" in log_lines(spec))
        with pytest.raises(InvalidArgument):
            await it.backend.kill_container(spec.id, 1000)
        await it.backend.kill_container(spec.id, signal.SIGUSR1)
        assert 5 == (await it.wait(spec.id)).code
        assert b"heard" in log_lines(spec)


async def test_a_hundred_containers_at_once() -> None:
    """A hundred containers live beside each other, each with its own output and exit."""
    async with pod() as it:

        async def live(number: int) -> tuple[int, list[bytes]]:
            spec = await it.start(f"echo {number}; exit {number}")
            return (await it.wait(spec.id)).code, log_lines(spec)

        ends = await asyncio.gather(*(live(number) for number in range(100)))
        assert [(number, [b"%d" % number]) for number in range(100)] == ends


async def test_no_thread_per_container() -> None:
    """Containers cost no threads."""
    async with pod() as it:
        tasks = Path("/proc/self/task")
        await it.start("exec sleep 1000")  # /proc is read by a thread of the loop's pool
        before = len(list(tasks.iterdir()))
        for _ in range(10):
            await it.start("exec sleep 1000")
        assert before == len(list(tasks.iterdir()))


async def test_much_output_costs_little() -> None:
    """A container that writes 50 MB without a newline runs to its end, and we stay small."""
    async with pod() as it:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        spec = await it.start("head -c 50000000 /dev/zero")
        await it.wait(spec.id)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
        assert 50_000_000 == sum(map(len, log_lines(spec)))


async def test_a_terminal_is_the_container_s_own() -> None:
    """With tty the container has a controlling terminal, which an attached client sizes and types into."""

    async def sizes() -> AsyncIterator[TerminalSize]:
        yield TerminalSize(100, 30)

    async with pod() as it:
        script = "stty -echo; echo ready; read line </dev/tty; stty size; ps -o tty= -p $$ | cut -c -4; echo $line"
        spec = await it.start(script, tty=True, stdin=True)
        source, out = Source(), Sink()
        attached = asyncio.create_task(it.backend.attach(spec.id, ProcessIO(stdin=source, stdout=out, sizes=sizes())))
        await until(lambda: b"ready\r" in log_lines(spec))
        source.feed(b"typed\n")
        assert 0 == (await it.wait(spec.id)).code
        await attached
        assert [b"ready\r", b"30 100\r", b"pts/\r", b"typed\r"] == log_lines(spec)


async def test_wrong_orders_are_refused() -> None:
    """What is there already, not started, or over, is refused with its state, and takes no harm."""
    async with pod() as it:
        backend = it.backend
        with pytest.raises(AlreadyExists):
            await backend.start_sandbox(it.spec)
        with pytest.raises(NotFound):
            await backend.create_container(it.container_spec(it.sandbox_spec(), ("true",)))
        spec = await it.create(it.spec, ("sleep", "1000"))
        with pytest.raises(AlreadyExists):
            await backend.create_container(spec)
        with pytest.raises(FailedPrecondition, match="created"):
            await backend.kill_container(spec.id, signal.SIGKILL)
        with pytest.raises(FailedPrecondition, match="created"):
            await it.sh(spec.id, "true")
        await backend.start_container(spec.id)
        with pytest.raises(FailedPrecondition, match="started"):
            await backend.start_container(spec.id)
        await backend.kill_container(spec.id, signal.SIGKILL)
        assert 137 == (await it.wait(spec.id)).code
        with pytest.raises(NotFound):
            await backend.kill_container(spec.id, signal.SIGKILL)
        for work in (it.sh(spec.id, "true"), backend.attach(spec.id, ProcessIO()), backend.reopen_log(spec.id)):
            with pytest.raises(FailedPrecondition, match="exited"):
                await work


async def test_a_removal_kills_what_runs() -> None:
    """After a start whose caller was cancelled, the removal alone ends everything, and waits return."""
    async with pod() as it:
        never = await it.create(it.spec, ("sleep", "1000"))
        spec = await it.start("echo $$; exec sleep 1000")
        await until(lambda: len(log_lines(spec)) == 1)
        waits = [asyncio.create_task(it.wait(never.id)), asyncio.create_task(it.wait(spec.id))]
        await asyncio.sleep(0)
        await it.backend.remove_container(never.id)
        await it.backend.remove_container(spec.id)
        with pytest.raises(NotFound):
            await waits[0]
        assert 137 == (await waits[1]).code
        assert not alive(log_lines(spec)[0])


async def test_a_start_that_cannot_be_recorded_is_undone() -> None:
    """Where a later crishim could not find the process, it does not run."""
    async with pod() as it:
        spec = await it.create(it.spec, ("sh", "-c", "echo $$; exec sleep 1000"))
        records = it.candidate.context.runtime_state / "containers"
        records.write_text("in the way")
        with pytest.raises(ResourceExhausted, match=str(records)):
            await it.backend.start_container(spec.id)
        assert 137 == (await it.wait(spec.id)).code
        records.unlink()


async def test_a_log_that_cannot_be_opened_fails_the_creation(tmp_path: Path) -> None:
    """A container whose log cannot be is an error of its creation, and leaves nothing."""
    async with pod() as it:
        (tmp_path / "file").touch()
        spec = it.container_spec(it.spec, ("true",), log_path=str(tmp_path / "file" / "0.log"))
        with pytest.raises(CrishimError, match=str(tmp_path / "file" / "0.log")):
            await it.backend.create_container(spec)
        assert None is await it.seen(spec.id)


async def test_usage_is_of_the_whole_container() -> None:
    """CPU time, memory and processes are those of the container's session and execs; an ended container has no usage."""
    async with pod() as it:
        spec = await it.start("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 1000 & sleep 1000 & echo ready; wait")
        idle = await it.create(it.spec, ("true",))
        await until(lambda: b"ready" in log_lines(spec))
        out = Sink()
        running = asyncio.create_task(it.sh(spec.id, "echo in; exec sleep 1000", ProcessIO(stdout=out)))
        await out.has(b"in")
        usage = await it.backend.container_usage(spec.id)
        assert usage.process is not None
        assert usage.process.process_count == 4
        assert usage.cpu is not None
        assert (usage.cpu.usage_core_nano_seconds or 0) > 0
        assert usage.memory is not None
        assert (usage.memory.rss_bytes or 0) > 4 * 100_000
        assert ContainerUsage() == await it.backend.container_usage(idle.id)
        whole = await it.backend.sandbox_usage(it.spec.id)
        assert whole.memory is not None
        assert usage.memory == attrs.evolve(whole.memory, timestamp=usage.memory.timestamp)
        running.cancel()
        await asyncio.wait({running})


async def test_ports_are_the_machine_s() -> None:
    """A dial connects to the loopback by IPv4, then IPv6, both ways and half-closed; a closed port is Unavailable."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read())
        writer.close()

    async with pod() as it:
        for host in ("127.0.0.1", "::1"):
            server = await asyncio.start_server(answer, host, 0)
            port = server.sockets[0].getsockname()[1]
            stream = await it.backend.dial(it.spec.id, port)
            await stream.write(b"hello")
            await stream.write_eof()
            assert (b"got hello", b"") == (await stream.read(), await stream.read())
            await stream.close()
            await stream.close()
            server.close()
            await server.wait_closed()
            with pytest.raises(Unavailable, match=f"port {port}.*127.0.0.1.*::1"):
                await it.backend.dial(it.spec.id, port)
        with pytest.raises(InvalidArgument):
            await it.backend.dial(it.spec.id, 1 << 16)


async def test_a_broken_connection_is_a_broken_pipe() -> None:
    """When the other side has gone, reading ends and writing raises BrokenPipeError."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with pod() as it, await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        stream = await it.backend.dial(it.spec.id, server.sockets[0].getsockname()[1])
        assert b"" == await stream.read()
        writes = [asyncio.create_task(stream.write(bytes(10_000))) for _ in range(100)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert isinstance(outcomes[-1], BrokenPipeError)
        await stream.close()
