"""Starting conmons and finding them again. Their life with containers is in the exam of the backends that have them."""

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from crishim.errors import DeadlineExceeded, FailedPrecondition, Unavailable, Unknown
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.processes import read, record
from crishim.model.process import Exit, TerminalSize
from crishim.monitor.client import ConmonMonitor, monitor_of, read_pipe
from crishim.monitor.conmon import MONITOR_PROCESS, MonitorRequest
from crishim.monitor.interface import exit_of


def script(folder: Path, text: str) -> ConmonMonitor:
    """A monitor of shell lines, for behaviour that conmon shows too rarely."""
    program = folder / "monitor"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return ConmonMonitor(str(program))


def waiting_process(*command: str) -> "subprocess.Popen[bytes]":
    """A process that ends with its input."""
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def request(bundle: Path) -> MonitorRequest:
    """A container to create."""
    return MonitorRequest(container_id="c1", bundle=bundle, runtime="runc", sockets=bundle)


async def created(monitor: ConmonMonitor, bundle: Path, *cgroups: Path, timeout: float = 10.0) -> int:
    """Have a monitor create its container."""
    waiting = await monitor.begin(request(bundle))
    return await waiting.create(cgroups, timeout=timeout)


async def test_a_monitor_is_put_into_its_cgroups(tmp_path: Path) -> None:
    """Once the container is there, its monitor is in its cgroups; these go when it has ended."""
    cgroup = tmp_path / "cgroup"
    with waiting_process("sh", "-c", "read x; :", "c1") as conmon:
        monitor = script(
            tmp_path, f"""echo {conmon.pid} > conmon-pidfile; echo '{{"data": 18}}' > /proc/self/fd/$_OCI_SYNCPIPE"""
        )
        assert 18 == await created(monitor, tmp_path, cgroup)
        assert str(conmon.pid) == (cgroup / "cgroup.procs").read_text()
        (cgroup / "cgroup.procs").unlink()
    await monitor.clear(tmp_path, "c1", (cgroup,))
    assert not cgroup.exists()


async def test_the_next_owner_of_a_dead_monitors_pid_is_not_moved(tmp_path: Path) -> None:
    """A process that has the pid of a monitor that has died is moved to no cgroup, and not waited for."""
    with waiting_process("cat") as other:
        text = f"""echo {other.pid} > conmon-pidfile; echo '{{"data": 18}}' > /proc/self/fd/$_OCI_SYNCPIPE"""
        monitor = script(tmp_path, text)
        await created(monitor, tmp_path, tmp_path / "cgroup")
        assert not (tmp_path / "cgroup").exists()
        (tmp_path / "cgroup").mkdir()
        await asyncio.wait_for(monitor.clear(tmp_path, "c1", (tmp_path / "cgroup",), timeout=60), 30)


async def test_the_end_of_a_first_process_whose_monitor_is_gone(tmp_path: Path) -> None:
    """It is waited for as long as that very process runs, and not as long as another one with its pid."""
    with waiting_process("cat") as first:
        monitor = script(tmp_path, f"""echo '{{"data": {first.pid}}}' > /proc/self/fd/$_OCI_SYNCPIPE""")
        record(tmp_path / FIRST_PROCESS, await created(monitor, tmp_path))
        waiting = asyncio.ensure_future(monitor.wait(tmp_path, "c1"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert first.stdin is not None
        first.stdin.close()
        assert Exit(code=0) == await asyncio.wait_for(waiting, 30)  # it is a child of ours
    with waiting_process("cat") as other:
        (tmp_path / FIRST_PROCESS).write_text(f"{other.pid} 1")
        assert Exit.unknown() == await asyncio.wait_for(monitor.wait(tmp_path, "c1"), 30)


async def test_a_monitor_waits_for_create(tmp_path: Path) -> None:
    """It starts before its bundle is complete, and creates nothing before `create`; without a container it exits."""
    wait = """read x < /proc/self/fd/$_OCI_STARTPIPE; touch begun; echo '{"data": 18}' > /proc/self/fd/$_OCI_SYNCPIPE"""
    monitor = script(tmp_path, wait)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not read
    waiting = await monitor.begin(request(tmp_path))
    await waiting.leave()
    assert not (tmp_path / "begun").exists()
    assert 18 == await created(monitor, tmp_path)
    assert (True, before) == ((tmp_path / "begun").exists(), len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - counted


@pytest.mark.parametrize(
    ("text", "error"),
    [("exit 1", Unknown), ("sleep 60", DeadlineExceeded), ("echo '{}' > /proc/self/fd/$_OCI_SYNCPIPE", Unknown)],
)
async def test_monitors_that_do_not_answer(tmp_path: Path, text: str, error: type[Exception]) -> None:
    """One that ends, hangs or says nothing of a pid is an error."""
    with pytest.raises(error):
        await created(script(tmp_path, text), tmp_path, timeout=0.2)


async def test_a_monitor_that_cannot_begin(tmp_path: Path) -> None:
    """Without conmon nothing is created, and no descriptor stays open."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not read
    with pytest.raises(FailedPrecondition, match="no-such"):
        await ConmonMonitor("no-such-conmon").begin(request(tmp_path))
    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not read


def test_how_it_ended(tmp_path: Path) -> None:
    """The exit file has the code and, by its time, the moment; a file beside it reports an OOM kill."""
    assert None is exit_of(tmp_path)
    (tmp_path / "exit").write_text("137")
    os.utime(tmp_path / "exit", ns=(5, 5))
    (tmp_path / "oom").touch()
    assert Exit(code=137, at=5, oom=True) == exit_of(tmp_path)


async def test_an_exit_that_was_not_recorded(tmp_path: Path) -> None:
    """Where monitor and container are gone and no exit was left, it is unknown."""
    assert Exit.unknown() == await asyncio.wait_for(ConmonMonitor().wait(tmp_path, "c1"), 5)


async def test_commands_to_a_monitor_that_is_gone(tmp_path: Path) -> None:
    """Its fifo has no reader any more, or does not exist."""
    for _ in range(2):
        with pytest.raises(Unavailable):
            await ConmonMonitor().resize(tmp_path, TerminalSize(width=1, height=1))
        if not (tmp_path / "ctl").exists():
            os.mkfifo(tmp_path / "ctl")


async def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    """The next line is written when the one before was read: conmon handles only the first line of one read."""
    os.mkfifo(tmp_path / "ctl")
    reader = os.open(tmp_path / "ctl", os.O_RDONLY | os.O_NONBLOCK)
    monitor = ConmonMonitor()
    writing = [asyncio.create_task(monitor.resize(tmp_path, TerminalSize(width=n, height=1))) for n in (1, 2, 3)]
    pieces: list[bytes] = []
    while len(pieces) < 3:
        await asyncio.sleep(0.005)
        with contextlib.suppress(BlockingIOError):
            if piece := os.read(reader, 4096):
                pieces.append(piece)
    await asyncio.gather(*writing)
    os.close(reader)
    assert [b"1 1 1\n", b"1 1 2\n", b"1 1 3\n"] == pieces


async def test_what_a_pipe_says() -> None:
    """A line, or all of it to the end."""
    for line, expected in ((True, b"one\n"), (False, b"one\ntwo")):
        reader, writer = os.pipe()
        os.write(writer, b"one\ntwo")
        os.close(writer)
        assert expected == await read_pipe(reader, line=line)


def test_whose_monitor_a_process_is(tmp_path: Path) -> None:
    """A recorded monitor is believed; what a pid file names only with the container's id among its arguments."""
    assert None is monitor_of(tmp_path, "c1")
    own = read(os.getpid())
    assert own is not None
    (tmp_path / "conmon-pidfile").write_text(str(os.getpid()))
    assert (None, own.identity) == (monitor_of(tmp_path, "an id that nobody has"), monitor_of(tmp_path, "pytest"))
    record(tmp_path / MONITOR_PROCESS, os.getpid())
    assert own.identity == monitor_of(tmp_path, "an id that nobody has")
