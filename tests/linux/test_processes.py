import asyncio
import os
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest

from crishim.linux import processes
from crishim.linux.processes import Identity, Process, family, read

SECOND = os.sysconf("SC_CLK_TCK")


def process(pid: int, parent: int, session: int, *, start: int = 1, ended: bool = False) -> Process:
    return Process(
        identity=Identity(pid, start),
        parent=parent,
        session=session,
        ended=ended,
        cpu=SECOND,
        minor_faults=3,
        major_faults=1,
        rss=4096,
    )


@pytest.mark.parametrize(
    ("roots", "members"),
    [
        ([], set()),
        ([Identity(10, 1)], {10, 11, 12, 13, 14}),
        ([Identity(10, 2)], set()),
        ([Identity(20, 1)], {21}),
        ([Identity(20, 1), Identity(10, 1)], {10, 11, 12, 13, 14, 21}),
        ([Identity(99, 1)], set()),
    ],
)
def test_a_family(roots: Collection[Identity], members: set[int]) -> None:
    """A family is its roots, their sessions, all descendants, and the sessions these lead; a reused number has none."""
    table = {
        one.pid: one
        for one in (
            process(1, 0, 1),
            process(10, 1, 10),
            process(11, 10, 10),
            process(12, 1, 10),
            process(13, 11, 13),
            process(14, 1, 13),
            process(21, 1, 20),
            process(30, 1, 30),
        )
    }
    assert members == {member.pid for member in family(roots, table)}


def test_a_process_is_read_whatever_its_name(tmp_path: Path) -> None:
    """A name full of brackets and spaces is no obstacle; who has ended and was not waited for is still there."""
    program = tmp_path / "a) R 1 (b"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "1000"], start_new_session=True) as child:
        seen = read(child.pid)
        assert seen is not None
        assert (child.pid, os.getpid(), child.pid, False) == (seen.pid, seen.parent, seen.session, seen.ended)
        assert seen.identity == processes.all_processes()[child.pid].identity
        processes.send(Identity(child.pid, seen.identity.start + 1), 9)
        assert child.poll() is None
        processes.send(seen.identity, 9)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        ended = read(child.pid)
        assert ended is not None
        assert (seen.identity, True) == (ended.identity, ended.ended)
        processes.send(seen.identity, 9)
    assert None is read(child.pid)
    processes.send(seen.identity, 9)


def test_an_identity_as_text() -> None:
    """What is written is read again; any other text is no process."""
    assert Identity(12, 34) == Identity.parse(str(Identity(12, 34)))
    assert [None, None, None] == [Identity.parse(text) for text in ("", "12", "a b")]


def test_only_the_process_that_is_meant_runs() -> None:
    """A process runs until it ends, waited for or not; one with the same pid and another start is not it."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        seen = read(child.pid)
        assert seen is not None
        assert processes.runs(seen.identity)
        assert not processes.runs(Identity(child.pid, seen.identity.start + 1))
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not processes.runs(seen.identity)
    assert not processes.runs(seen.identity)


def test_a_recorded_process(tmp_path: Path) -> None:
    """What was recorded is read again with its start time; of a process that is gone nothing is recorded."""
    file = tmp_path / "process"
    assert (None, None) == (processes.recorded(file), processes.record(file, 0))
    own = read(os.getpid())
    assert own is not None
    assert (own.identity, own.identity) == (processes.record(file, os.getpid()), processes.recorded(file))
    file.write_text("broken")
    assert None is processes.recorded(file)


async def test_an_end_is_seen() -> None:
    """The wait lasts as long as that very process; for none, or for another with its pid, it is over at once."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:  # noqa: ASYNC220
        seen = read(process.pid)
        assert seen is not None
        await asyncio.wait_for(processes.ended(Identity(process.pid, seen.identity.start + 1)), 30)
        waiting = asyncio.ensure_future(processes.ended(seen.identity))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(waiting, 30)
        assert 0 == process.wait()
    await asyncio.wait_for(processes.ended(seen.identity), 30)


def test_pid_files(tmp_path: Path) -> None:
    """A pid file has a number; a missing or invalid one is no process."""
    (tmp_path / "pid").write_text("12\n")
    (tmp_path / "bad").write_text("x")
    assert [12, 0, 0] == [processes.read_pid(tmp_path / name) for name in ("pid", "bad", "none")]
