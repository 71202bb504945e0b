"""Tasks over a runtime in memory: order of operations, published events, leftovers."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound, Unknown
from crishim.interfaces.oci_runtime import OciRuntime, OciStatus, Stdio
from crishim.linux.cgroups import Cgroups
from crishim.model.process import Exit
from crishim.shimv2.server.rootfs import RootMount
from crishim.shimv2.server.task import Creation, IoPaths, Pipes, TaskRecords
from crishim.shimv2.server.tasks import Tasks
from crishim.testing.doubles import FakeClock, settle
from tests.shimv2.memory import PID, Heard, MemoryRuntime

KEY = ("k8s.io", "t1")


@attrs.frozen
class World:
    tasks: Tasks
    runtime: MemoryRuntime
    heard: Heard
    built: list[tuple[str, tuple[str, bytes]]]
    bundle: Path

    def creation(self, **changed: Any) -> Creation:
        return attrs.evolve(Creation(bundle=self.bundle), **changed)

    def pipes(self) -> IoPaths:
        paths = IoPaths(stdin=f"{self.bundle}/in", stdout=f"{self.bundle}/out", stderr=f"{self.bundle}/err")
        for path in (paths.stdin, paths.stdout, paths.stderr):
            os.mkfifo(path)
        return paths


def over(tmp_path: Path, runtime: MemoryRuntime) -> World:
    built: list[tuple[str, tuple[str, bytes]]] = []

    def make(namespace: str, options: tuple[str, bytes]) -> OciRuntime:
        built.append((namespace, options))
        return runtime

    bundle = tmp_path / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps({"linux": {"cgroupsPath": "/pods/t1"}}))
    heard = Heard()
    tasks = Tasks(
        make,
        FakeClock(),
        heard,
        Cgroups(v2=True, root=tmp_path / "cgroup"),
        TaskRecords(tmp_path / "tasks"),
        pods=tmp_path / "pods",
        unified=True,
    )
    return World(tasks, runtime, heard, built, bundle)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return over(tmp_path, MemoryRuntime())


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[int]:
    """The end of a pipe that containerd reads."""
    path = tmp_path / "out"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield descriptor
    os.close(descriptor)


async def test_a_whole_life(world: World) -> None:
    """Create, start, kill, wait, delete: each publishes one event, in order, and the exit is the runtime's."""
    assert PID == await world.tasks.create(KEY, world.creation())
    assert PID == await world.tasks.start(KEY, "")
    waiting = asyncio.ensure_future(world.tasks.wait(KEY, ""))
    await world.tasks.kill(KEY, "", signal.SIGTERM, everyone=False)
    assert Exit(code=143, at=7) == await waiting == await world.tasks.wait(KEY, "")
    assert (PID, Exit(code=143, at=7)) == await world.tasks.delete(KEY, "")
    assert ["create t1", "start t1", "exit t1 143", "delete t1 143"] == world.heard.words
    assert ({}, 0) == (world.runtime.containers, len(world.tasks))


async def test_an_exec_s_stdin_has_no_reader_before_its_start(world: World) -> None:
    """A client's first write waits for Start, before CloseIO: its data is read, and then the end."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.start(KEY, "")
    paths = world.pipes()
    await world.tasks.add_exec(KEY, "x", IoPaths(stdin=paths.stdin), {"args": ["cat"]})
    with pytest.raises(OSError, match="No such device"):
        os.open(paths.stdin, os.O_WRONLY | os.O_NONBLOCK)
    writing = asyncio.create_task(asyncio.to_thread(Path(paths.stdin).write_bytes, b"all\n"))
    await world.tasks.start(KEY, "x")
    await writing
    await world.tasks.close_stdin(KEY, "x")
    stdin = world.runtime.exec_io.stdin
    assert stdin is not None
    async with asyncio.timeout(10):
        assert [b"all\n", b""] == [await stdin.read(), await stdin.read()]
    world.runtime.exec_end.set_result(Exit(code=0))
    await world.tasks.wait(KEY, "x")


async def test_stdin_that_is_closed_before_the_start(world: World) -> None:
    """CloseIO between Exec and Start, as for an empty input: the exec sees the end at once."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.start(KEY, "")
    await world.tasks.add_exec(KEY, "x", IoPaths(stdin=world.pipes().stdin), {"args": ["cat"]})
    await world.tasks.close_stdin(KEY, "x")
    await world.tasks.start(KEY, "x")
    stdin = world.runtime.exec_io.stdin
    assert stdin is not None
    async with asyncio.timeout(10):
        assert b"" == await stdin.read()
    world.runtime.exec_end.set_result(Exit(code=0))
    await world.tasks.wait(KEY, "x")


def test_pipes_that_are_closed_before_they_are_used(tmp_path: Path) -> None:
    """What was closed, and never used, holds no descriptor."""
    os.mkfifo(tmp_path / "in")
    before = len(list(Path("/proc/self/fd").iterdir()))
    pipes = Pipes(IoPaths(stdin=str(tmp_path / "in")))
    pipes.hold()
    pipes.close_stdin()
    pipes.close()
    assert before == len(list(Path("/proc/self/fd").iterdir()))


async def test_a_name_is_taken_in_its_namespace(world: World) -> None:
    """A second task of an id is refused and harms nothing; another namespace has its own."""
    await world.tasks.create(KEY, world.creation())
    with pytest.raises(AlreadyExists):
        await world.tasks.create(KEY, world.creation())
    assert OciStatus.CREATED is world.tasks.look(KEY, "")[1].status
    with pytest.raises(NotFound):
        world.tasks.look(("other", "t1"), "")


async def test_a_task_that_cannot_be_created(world: World) -> None:
    """The runtime's refusal is returned, no event is published, and the id is free."""
    world.runtime.refusal = Unknown("no")
    with pytest.raises(Unknown):
        await world.tasks.create(KEY, world.creation())
    assert ([], 0) == (world.heard.words, len(world.tasks))
    world.runtime.refusal = None
    assert PID == await world.tasks.create(KEY, world.creation())


class ForgetfulRuntime(MemoryRuntime):
    """Knows no container of the object before it, whose process runs."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid = pid

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        await super().create(container_id, bundle, stdio)
        return self.pid


async def test_what_a_runtime_does_not_know_and_runs(tmp_path: Path) -> None:
    """A task of an earlier daemon whose runtime has forgotten it is not forgotten here while its process runs."""
    with subprocess.Popen(["sleep", "600"]) as process:  # noqa: ASYNC220 - started at once
        try:
            before = over(tmp_path, ForgetfulRuntime(process.pid))
            await before.tasks.create(KEY, before.creation())
            after = over(tmp_path, ForgetfulRuntime(process.pid))
            with pytest.raises(Internal, match=f"process {process.pid} runs"):
                await after.tasks.end(KEY, after.bundle)
            assert {KEY: after.bundle} == TaskRecords(tmp_path / "tasks").left()
        finally:
            process.kill()
    assert 137 == (await after.tasks.end(KEY, after.bundle)).code
    assert {} == TaskRecords(tmp_path / "tasks").left()
    await before.runtime.delete(KEY[1])


async def test_a_running_task_is_not_deleted(world: World) -> None:
    """Delete is refused while it runs, and frees one that has never run."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.start(KEY, "")
    with pytest.raises(FailedPrecondition):
        await world.tasks.delete(KEY, "")
    other = ("k8s.io", "t2")
    await world.tasks.create(other, world.creation())
    assert 137 == (await world.tasks.delete(other, ""))[1].code


async def test_what_has_ended_cannot_be_killed_or_started(world: World) -> None:
    """A signal finds nothing, as containerd wants to hear it; a start is refused."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.kill(KEY, "", signal.SIGKILL, everyone=True)
    await world.tasks.wait(KEY, "")
    with pytest.raises(NotFound):
        await world.tasks.kill(KEY, "", signal.SIGKILL, everyone=True)
    with pytest.raises(FailedPrecondition):
        await world.tasks.start(KEY, "")


async def test_delete_of_the_binary(world: World) -> None:
    """`end` kills and frees a task, known or not, and can be repeated."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.start(KEY, "")
    assert 137 == (await world.tasks.end(KEY, world.bundle)).code
    assert 137 == (await world.tasks.end(KEY, world.bundle)).code
    assert ({}, 0) == (world.runtime.containers, len(world.tasks))


async def test_no_runtime_is_built_for_a_deleted_task(world: World) -> None:
    """After a clean end the binary's `delete` finds nothing to free, and no runtime is built."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.delete(KEY, "")
    world.built.clear()
    assert (137, []) == ((await world.tasks.end(KEY, world.bundle)).code, world.built)


async def test_options_outlive_the_daemon(tmp_path: Path) -> None:
    """Another daemon that ends a task uses the runtime with which the task was created."""
    options = ("containerd.runc.v1.Options", b"\x3a\x04/own")
    first = over(tmp_path, MemoryRuntime())
    await first.tasks.create(KEY, first.creation(options=options))
    second = over(tmp_path, first.runtime)
    await second.tasks.end(KEY, second.bundle)
    assert [("k8s.io", options)] == second.built
    assert {} == first.runtime.containers


async def test_what_a_daemon_leaves_is_ended_unasked(tmp_path: Path) -> None:
    """The next daemon knows every task that was not deleted, until it has ended it, once, whatever else requests its end."""
    first = over(tmp_path, MemoryRuntime())
    first.bundle.with_name("other").mkdir()
    await first.tasks.create(KEY, first.creation())
    await first.tasks.create(("k8s.io", "t2"), first.creation(bundle=first.bundle.with_name("other")))
    await first.tasks.delete(("k8s.io", "t2"), "")
    second = over(tmp_path, first.runtime)
    (left,) = second.tasks.take_over()
    assert (KEY, second.bundle) == (left.key, left.bundle)
    with pytest.raises(AlreadyExists):
        await second.tasks.create(KEY, second.creation())
    waiting = asyncio.ensure_future(second.tasks.wait(KEY, ""))
    ends = await asyncio.gather(*(second.tasks.end(KEY, second.bundle) for _ in range(3)), waiting)
    assert ([137] * 4, {}) == ([end.code for end in ends], first.runtime.containers)
    assert ([], []) == (second.tasks.take_over(), over(tmp_path, first.runtime).tasks.take_over())


async def test_what_cannot_be_taken_over_is_left(tmp_path: Path) -> None:
    """A task whose runtime cannot be built, for whatever reason, does not affect the next daemon's other work."""
    first = over(tmp_path, MemoryRuntime())
    await first.tasks.create(KEY, first.creation())

    def refuse(namespace: str, options: tuple[str, bytes]) -> OciRuntime:
        raise OSError("an author's")

    second = over(tmp_path, first.runtime)
    second.tasks._make = refuse
    assert [] == second.tasks.take_over()


async def test_an_exec(world: World, reader: int, tmp_path: Path) -> None:
    """An exec has its own output, events and exit, and may be deleted once it has ended."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.start(KEY, "")
    await world.tasks.add_exec(KEY, "x", IoPaths(stdout=str(tmp_path / "out")), {"args": ["true"]})
    with pytest.raises(AlreadyExists):
        await world.tasks.add_exec(KEY, "x", IoPaths(), {})
    assert PID + 1 == await world.tasks.start(KEY, "x")
    with pytest.raises(FailedPrecondition):
        await world.tasks.start(KEY, "x")
    with pytest.raises(FailedPrecondition):
        await world.tasks.delete(KEY, "x")
    world.runtime.exec_end.set_result(Exit(code=4, at=5))
    assert 4 == (await world.tasks.wait(KEY, "x")).code
    await settle()
    assert (PID + 1, Exit(code=4, at=5)) == await world.tasks.delete(KEY, "x")
    assert b"of the exec\n" == os.read(reader, 100)
    assert [{"args": ["true"], "terminal": False}] == world.runtime.processes
    assert ["exec-added x", "exec-started x", "exit x 4"] == world.heard.words[2:]


async def test_an_exec_that_cannot_be_run(world: World) -> None:
    """Its start fails with the runtime's message, waits return an exit, and it may be deleted."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.start(KEY, "")
    await world.tasks.add_exec(KEY, "x", IoPaths(), {})
    world.runtime.refusal = Unknown("no such program")
    with pytest.raises(Unknown, match="no such program"):
        await world.tasks.start(KEY, "x")
    assert 255 == (await world.tasks.wait(KEY, "x")).code
    assert 255 == (await world.tasks.delete(KEY, "x"))[1].code
    assert ["exec-added x"] == world.heard.words[2:]


async def test_an_exec_ends_before_its_start_is_answered(world: World) -> None:
    """Even then the start event precedes the exit event."""
    world.runtime.exec_end.set_result(Exit(code=0, at=5))
    await world.tasks.create(KEY, world.creation())
    await world.tasks.start(KEY, "")
    await world.tasks.add_exec(KEY, "x", IoPaths(), {})
    await world.tasks.start(KEY, "x")
    await settle()
    assert ["exec-started x", "exit x 0"] == world.heard.words[3:]
    assert OciStatus.STOPPED is world.tasks.look(KEY, "x")[1].status


async def test_an_exec_that_never_ran(world: World) -> None:
    """A signal ends it, and it cannot be started any more; one that belongs to no task is not found."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.add_exec(KEY, "x", IoPaths(), {})
    await world.tasks.kill(KEY, "x", signal.SIGKILL, everyone=False)
    assert 137 == (await world.tasks.wait(KEY, "x")).code
    with pytest.raises(FailedPrecondition):
        await world.tasks.start(KEY, "x")
    with pytest.raises(NotFound):
        await world.tasks.start(KEY, "y")


async def test_an_exec_of_a_task_that_is_gone_meanwhile(world: World) -> None:
    """Freeing a task ends all waits for its execs."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.start(KEY, "")
    await world.tasks.add_exec(KEY, "x", IoPaths(), {})
    await world.tasks.start(KEY, "x")
    waiting = asyncio.ensure_future(world.tasks.wait(KEY, "x"))
    await world.tasks.end(KEY, world.bundle)
    async with asyncio.timeout(10):
        assert 137 == (await waiting).code


@pytest.mark.parametrize(
    ("namespaces", "kills"),
    [
        ([], [(15, False), (9, True)]),
        ([{"type": "pid", "path": "/proc/1/ns/pid"}], [(15, False), (9, True)]),
        ([{"type": "mount"}, {"type": "pid"}], [(15, False)]),
    ],
)
async def test_processes_that_outlive_the_first(
    world: World, namespaces: list[dict[str, str]], kills: list[tuple[int, bool]]
) -> None:
    """They are killed when the first has ended, but where the kernel does that: in a process namespace of the task's own."""
    (world.bundle / "config.json").write_text(json.dumps({"linux": {"namespaces": namespaces}}))
    await world.tasks.create(KEY, world.creation())
    await world.tasks.kill(KEY, "", signal.SIGTERM, everyone=False)
    assert 143 == (await world.tasks.wait(KEY, "")).code
    assert kills == world.runtime.kills


async def test_the_exit_is_reported_when_all_processes_have_ended(world: World, tmp_path: Path) -> None:
    """As long as there are processes in the task's cgroup, its exit is not reported."""
    folder = tmp_path / "cgroup" / "pods" / "t1"
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text("7\n")
    await world.tasks.create(KEY, world.creation())
    waiting = asyncio.ensure_future(world.tasks.wait(KEY, ""))
    await world.tasks.kill(KEY, "", signal.SIGTERM, everyone=False)
    await settle()
    assert not waiting.done()
    (folder / "cgroup.procs").write_text("")
    assert 143 == (await waiting).code


async def test_a_signal_is_answered_before_the_deletion(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may be gone before its signal's sender has returned: Delete lets that be answered first."""
    await world.tasks.create(KEY, world.creation())
    returns, kill = asyncio.Event(), world.runtime.kill

    async def slow(container_id: str, number: int, *, everyone: bool = False) -> None:
        await kill(container_id, number, everyone=everyone)
        if not everyone:
            await returns.wait()

    monkeypatch.setattr(world.runtime, "kill", slow)
    killing = asyncio.ensure_future(world.tasks.kill(KEY, "", signal.SIGTERM, everyone=False))
    assert 143 == (await world.tasks.wait(KEY, "")).code
    deleting = asyncio.ensure_future(world.tasks.delete(KEY, ""))
    await settle()
    assert (False, False) == (killing.done(), deleting.done())
    returns.set()
    await deleting
    assert killing.done()


async def test_a_runtime_that_breaks(world: World) -> None:
    """A wait for a task returns an exit, whatever the runtime raises."""
    await world.tasks.create(KEY, world.creation())
    world.runtime.containers["t1"].end.set_exception(ValueError("a bug"))
    assert 255 == (await world.tasks.wait(KEY, "")).code
    assert 255 == (await world.tasks.delete(KEY, ""))[1].code


async def test_pipes_of_the_first_process(world: World) -> None:
    """The runtime gets the pipes themselves; stdin stays open here until CloseIO."""
    io = world.pipes()
    await world.tasks.create(KEY, world.creation(io=io))
    stdio = world.runtime.containers["t1"].stdio
    assert (io.stdin, io.stdout, io.stderr, True) == (stdio.stdin, stdio.stdout, stdio.stderr, stdio.keep_stdin)
    reading = os.open(io.stdin, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    await world.tasks.close_stdin(KEY, "")
    assert b"" == os.read(reading, 1)
    os.close(reading)


@pytest.mark.parametrize("io", [IoPaths(stdout="binary:///bin/logger?a=b"), IoPaths(stdin="/no/such/pipe")])
async def test_what_is_no_pipe(world: World, io: IoPaths) -> None:
    """It is refused, and leaves nothing."""
    with pytest.raises(InvalidArgument):
        await world.tasks.create(KEY, world.creation(io=io))
    assert ({}, 0) == (world.runtime.containers, len(world.tasks))


async def test_a_root_that_leads_out(world: World) -> None:
    """A mount outside the bundle is refused before the runtime is called."""
    with pytest.raises(InvalidArgument):
        await world.tasks.create(KEY, world.creation(mounts=(RootMount(kind="tmpfs", source="t", target="../../etc"),)))
    assert {} == world.runtime.containers


async def test_pause_and_limits(world: World) -> None:
    """A paused task has its event and is not deleted; new limits reach the runtime unchanged."""
    await world.tasks.create(KEY, world.creation())
    await world.tasks.start(KEY, "")
    await world.tasks.pause(KEY, paused=True)
    assert OciStatus.PAUSED is world.tasks.look(KEY, "")[1].status
    with pytest.raises(FailedPrecondition):
        await world.tasks.delete(KEY, "")
    await world.tasks.pause(KEY, paused=False)
    await world.tasks.update(KEY, {"cpu": {"shares": 7}})
    assert [{"cpu": {"shares": 7}}] == world.runtime.updates
    assert ["paused t1", "resumed t1"] == world.heard.words[2:]


async def test_many_at_once(world: World) -> None:
    """Hundreds of concurrent lifecycles leave nothing, and the events of each are in order."""

    async def live(number: int) -> None:
        key, bundle = ("k8s.io", f"n{number}"), world.bundle / str(number)
        bundle.mkdir()
        await world.tasks.create(key, Creation(bundle=bundle))
        await world.tasks.start(key, "")
        waiting = asyncio.ensure_future(world.tasks.wait(key, ""))
        await world.tasks.kill(key, "", signal.SIGTERM, everyone=False)
        await waiting
        await world.tasks.delete(key, "")

    await asyncio.gather(*(live(number) for number in range(200)))
    events = [word.split()[0] for word in world.heard.words if word.split()[1] == "n17"]
    assert ["create", "start", "exit", "delete"] == events
    assert ({}, 0) == (world.runtime.containers, len(world.tasks))
