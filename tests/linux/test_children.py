"""Who collects which child, with real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from crishim.errors import NotFound
from crishim.linux import children as room
from crishim.linux.children import become_subreaper, children, end_program, watch_by_pidfd
from crishim.linux.processes import read
from tests.opens import counted

LEAVES_ORPHANS = """
import os, sys, time
def leave(new_session, code):
    if os.fork() == 0:
        if new_session:
            os.setsid()
        os._exit(code)
[leave(False, 3) for _ in range(int(sys.argv[1]))]
[leave(True, 3) for _ in range(int(sys.argv[2]))]
"""


@pytest.fixture(autouse=True)
async def subreaper() -> AsyncIterator[None]:
    become_subreaper()
    watch_by_pidfd()
    others.clear()
    others.update(own_children())  # of other tests, with patience of their own
    yield
    await until(lambda: set() == own_children())


others: set[int] = set()


def own_children() -> set[int]:
    """The pids of the children that this test has."""
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()} - others


async def until(true: Callable[[], bool]) -> None:
    """Poll a condition; bounded by the test's own patience of 30 s."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - the kernel has no event for these
            await asyncio.sleep(0.01)


LEAVES_ONE = """
import os, sys, time
pid = os.fork()
if pid == 0:
    os.setsid()
    os.close(1)
    time.sleep(float(sys.argv[2]))
    os._exit(int(sys.argv[1]))
print(pid)
"""


async def leave_orphan(code: int, *, seconds: float = 0.0) -> int:
    """A process that a program has left to us, as a runtime leaves an exec; its pid. To be called in `expecting`."""
    program = await children.start(sys.executable, "-c", LEAVES_ONE, str(code), str(seconds), stdout=subprocess.PIPE)
    assert program.stdout is not None
    pid = int(await program.stdout.readline())
    await program.communicate()  # until the orphan has left the pipe, too
    assert 0 == program.returncode
    return pid


async def test_an_adopted_exit() -> None:
    """An adopted process has its own exit, however late it is awaited."""
    with children.expecting():
        child = children.adopt(await leave_orphan(7))
    await child.ended()
    await asyncio.sleep(3 * room._PAUSE)  # several looks for orphans
    assert (7, 7, None) == (child.returncode(), child.collect(), child.collect())


async def test_an_adopted_process_is_signalled() -> None:
    """A signal reaches it, and one that comes after its end is nothing; a killed one has the signal's number, negative."""
    with children.expecting():
        child = children.adopt(await leave_orphan(0, seconds=600))
    assert None is child.returncode()
    child.send(signal.SIGKILL)
    await child.ended()
    child.send(signal.SIGKILL)
    assert -signal.SIGKILL == child.collect()


async def test_what_a_program_leaves_is_not_taken_before_it_is_adopted() -> None:
    """On a busy loop, and with orphans of others, every expected exit is the process's own."""
    codes = []
    for _ in range(20):
        with children.expecting():
            pid = await leave_orphan(3)
            assert 0 == await (await children.start(sys.executable, "-c", LEAVES_ORPHANS, "2", "0")).wait()
            await asyncio.sleep(2 * room._PAUSE)
            child = children.adopt(pid)
        await child.ended()
        codes.append(child.collect())
    assert [3] * 20 == codes


async def test_unannounced_orphans_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orphans are collected at once where they cannot be direct children, and the leaders of sessions after the grace."""
    monkeypatch.setattr(room, "GRACE", 0.2)
    assert 0 == await (await children.start(sys.executable, "-c", LEAVES_ORPHANS, "3", "3")).wait()
    await until(lambda: set() == own_children())


async def test_the_search_for_orphans_does_not_grow_with_children() -> None:
    """An orphan is collected without a look at the other children, as many as a node has containers."""
    with children.expecting():
        running = [children.adopt(await leave_orphan(0, seconds=600)) for _ in range(12)]
    for child in running[:-1]:
        child.disown()
    await until(lambda: 12 == len(own_children()))
    with counted() as work:
        assert 0 == await (await children.start(sys.executable, "-c", LEAVES_ORPHANS, "1", "0")).wait()
        await until(lambda: 12 == len(own_children()))
        await asyncio.sleep(3 * room._PAUSE)
    others_read = {f"/proc/{child.identity.pid}/stat" for child in running}
    assert set() == others_read & set(work.files)
    for child in running:
        os.kill(child.identity.pid, signal.SIGKILL)
    await running[-1].ended()
    running[-1].collect()


async def test_others_children_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other code that uses subprocess, in any thread and polling late, gets the exits of its own programs."""
    monkeypatch.setattr(room, "GRACE", 600.0)
    collected = threading.Event()
    codes: list[int] = []

    def start_and_poll_late() -> None:
        programs = [subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=new) for new in (False, True)]
        collected.wait(30)
        codes.extend(program.wait() for program in programs)

    work = asyncio.create_task(asyncio.to_thread(start_and_poll_late))
    own = [subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=new) for new in (False, True)]  # noqa: ASYNC220
    for _ in range(5):
        assert 0 == await (await children.start(sys.executable, "-c", LEAVES_ORPHANS, "2", "0")).wait()
    await until(lambda: {program.pid for program in own} == own_children())
    collected.set()
    await work
    assert [7, 7, 7, 7] == [*codes, *(program.wait() for program in own)]


async def test_a_program_of_asyncio_is_not_taken() -> None:
    """A hundred programs that end at once, beside orphans, all have their own exits."""
    programs = [await children.start("sh", "-c", "exit 9") for _ in range(50)]
    leaving = [await children.start(sys.executable, "-c", LEAVES_ORPHANS, "5", "0") for _ in range(2)]
    assert [9] * 50 + [0, 0] == [await program.wait() for program in (*programs, *leaving)]


async def test_a_process_that_is_no_child(tmp_path: Path) -> None:
    """A process of another parent can be awaited and signalled; its exit is unknown."""
    file = tmp_path / "pid"
    parent = await children.start("sh", "-c", f"sleep 600 & echo $! > {file}; wait; exec sleep 600")
    await until(lambda: file.exists() and file.read_text() != "")
    child = children.adopt(int(file.read_text()))
    child.send(signal.SIGTERM)
    await child.ended()
    assert None is child.collect()
    parent.kill()
    await parent.wait()


async def test_there_is_no_such_process() -> None:
    """A pid that no process has cannot be adopted, and one that has to be collected without an owner may be gone."""
    program = await children.start("true")
    await program.wait()
    with pytest.raises(NotFound):
        children.adopt(program.pid)
    children.collect_at_end(program.pid)
    assert None is read(program.pid)


async def test_a_child_without_a_waiter() -> None:
    """A process whose exit is not awaited is collected when it ends, and not before."""
    with children.expecting():
        pid = await leave_orphan(0, seconds=600)
        children.collect_at_end(pid)
    assert {pid} == own_children()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: set() == own_children())


async def test_a_spawned_program(tmp_path: Path) -> None:
    """A program that is started without asyncio has its exit by the same child, and cannot be run where it is missing."""
    child = children.spawn(["sh", "-c", "exit 4"], start_new_session=True)
    await child.ended()
    assert (4, 4) == (child.returncode(), child.collect())
    with pytest.raises(FileNotFoundError):
        children.spawn([str(tmp_path / "missing")])


async def test_several_wait_for_one() -> None:
    """Any number of waiters get an exit, and a cancelled one does not affect the others."""
    child = children.spawn(["sleep", "0.1"], start_new_session=True)
    waiters = [asyncio.create_task(child.ended()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    await asyncio.gather(*waiters[1:])
    assert 0 == child.collect()


async def test_a_program_that_has_ended_can_be_ended() -> None:
    """A program can be ended without a check whether it has exited: its exit code is unchanged."""
    process = await children.start("true")
    await process.wait()
    await end_program(process)
    assert 0 == process.returncode
    sleeping = await children.start("sleep", "600")
    await end_program(sleeping)
    assert -signal.SIGKILL == sleeping.returncode


async def test_pipes_are_closed_with_their_program() -> None:
    """A descendant that left the program's group, and still has its output, keeps no pipe of ours open."""
    pipe = asyncio.subprocess.PIPE
    leaves = "setsid sh -c 'echo $$; exec sleep 600' <&0 & exec sleep 600"
    process = await children.start("sh", "-c", leaves, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    descendant = int(await process.stdout.readline())
    process.stdin.write(b"x" * 1024 * 1024)
    async with asyncio.timeout(30):
        await end_program(process, group=True)
        assert b"" == await process.stdout.read()
    os.kill(descendant, signal.SIGKILL)


LOOPS = """
import asyncio, signal, subprocess, sys
from crishim.linux.children import children

class Loop(asyncio.SelectorEventLoop):
    def close(self):
        super().close()
        print(*answers)

async def main():
    await (await children.start("true")).wait()

class Pipe:
    def __init__(self, pipe):
        self.pipe = pipe
    def __getattr__(self, name):
        return getattr(self.pipe, name)
    def close(self):
        self.pipe.close()
        answers.append(signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL)
        subprocess.run(["true"])

answers = []
def loop():
    made = Loop()
    made._csock = Pipe(made._csock)
    return made
for _ in range(2):
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
"""


async def test_an_exit_while_the_loop_closes() -> None:
    """A child that exits after the loop has closed the pipe of its signals causes no message of Python's, in any loop."""
    program = await children.start(sys.executable, "-c", LOOPS, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (b"True\nTrue True\n", b"") == await program.communicate()
