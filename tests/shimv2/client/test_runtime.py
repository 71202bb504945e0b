"""Pods over containerd's own shim, with everything that can go wrong between it and us."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from crishim.errors import AlreadyExists, CrishimError, NotFound, Unavailable
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import Stdio
from crishim.model.container import ContainerState
from crishim.model.process import ExecSpec, TerminalSize
from crishim.model.resources import Resources
from crishim.model.values import ContainerId
from crishim.oci.spec import process_of
from crishim.pods.bundle import read_config
from crishim.shimv2.client.connection import ShimLink
from crishim.shimv2.client.task import ShimTask
from crishim.testing.conformance.candidate import until
from crishim.testing.conformance.logs import read_log
from crishim.testing.conformance.offers import Sink, Source
from tests.backends.runc.world import needs
from tests.shimv2.world import ShimWorld
from tests.traces import Recording, attributes

pytestmark = [pytest.mark.node, needs("containerd-shim-runc-v2", "runc", "busybox", "unshare", "catatonit")]


async def test_one_shim_for_a_pod(containers: ShimWorld) -> None:
    """Two pods of two containers are two shims; the containers of a pod share its namespaces and not their files."""
    for _ in range(2):
        pod = await containers.sandbox()
        specs = [await containers.run_ready(pod, containers.programs.sleeps()) for _ in range(2)]
        seen = [await output(containers, spec.id, "hostname") for spec in specs]
        assert seen[0] == seen[1]
    assert 2 == len(containers.shims())


async def test_calls_of_a_shim_are_traced(containers: ShimWorld) -> None:
    """In a traced RPC each call of the shim is a span; the wait for the task's end is none."""
    recording = Recording()
    with recording.inside():
        await containers.run_ready(await containers.sandbox(), containers.programs.sleeps())
    calls = [attributes(span) for span in recording.spans if span.name.startswith("containerd.task.v2.Task/")]
    assert {("ttrpc", "Create"), ("ttrpc", "Start")} <= {(call["rpc.system"], call["rpc.method"]) for call in calls}
    assert "Wait" not in {call["rpc.method"] for call in calls}


async def output(world: ShimWorld, container_id: ContainerId, *argv: str) -> bytes:
    out = Sink()
    await world.pods.exec(container_id, ExecSpec(argv=argv), ProcessIO(stdout=out))
    return out.data


async def test_the_pid_of_an_exec(containers: ShimWorld) -> None:
    """exec_process calls `started` once, with the pid of the process on the node."""
    spec = await containers.run_ready(await containers.sandbox(), containers.programs.sleeps())
    bundle = containers.candidate.context.runtime_state / "containers" / spec.id
    process = process_of(read_config(bundle), ("sleep", "600"), terminal=False)
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(containers.runtime.exec_process(spec.id, process, ProcessIO(), started.set_result))
    async with asyncio.timeout(30):
        pid = await started
    await until(lambda: executed(pid)[-1] == "600")  # the runtime reports a process that is about to become the program
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def executed(pid: int) -> list[str]:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").rstrip("\0").split("\0")


async def test_the_shim_dies(containers: ShimWorld) -> None:
    """When the shim is killed its containers end, every waiter gets an exit, and their processes and mounts are freed."""
    pod = await containers.sandbox()
    specs = [await containers.run_ready(pod, containers.programs.sleeps()) for _ in range(2)]
    pids = [(await containers.runtime.state(spec.id)).pid for spec in specs]
    waits = [asyncio.ensure_future(containers.wait(spec.id)) for spec in specs]
    life = asyncio.ensure_future(containers.runtime.wait(pod.id))
    await asyncio.sleep(0)
    record = (await containers.runtime._sandbox(pod.id)).folder.shim()
    assert record is not None
    os.kill(containers.shims()[0], signal.SIGKILL)
    codes = [end.code for end in await asyncio.gather(*waits, life)]
    assert [137, 137, 137] == codes
    assert [] == [pid for pid in pids if running(pid)]
    assert not os.access(record.address.removeprefix("unix://"), os.F_OK)
    seen = await containers.seen(specs[0].id)
    assert seen is not None
    assert ContainerState.EXITED is seen.state


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_shim_that_stands_still(containers: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim that does not answer is killed with the removal of its pod."""
    pod = await containers.sandbox()
    spec = await containers.run_ready(pod, containers.programs.sleeps())
    pid = (await containers.runtime.state(spec.id)).pid
    monkeypatch.setattr(ShimLink, "timeout", 0.3)
    os.kill(containers.shims()[0], signal.SIGSTOP)
    await containers.backend.stop_sandbox(pod.id)
    assert not running(pid)
    assert 137 == (await containers.wait(spec.id)).code


@pytest.mark.parametrize("event", [True, False])
async def test_memory_runs_out(containers: ShimWorld, monkeypatch: pytest.MonkeyPatch, *, event: bool) -> None:
    """A container that the kernel kills for want of memory has ended with 137, and oom, even if the shim's event is late."""
    if not event:
        monkeypatch.setattr(ShimTask, "note_oom", lambda _: None)
    pod = await containers.sandbox()
    eats = ("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")
    spec = await containers.run(pod, eats, resources=Resources(memory_limit_in_bytes=16 << 20))
    end = await containers.wait(spec.id)
    assert (137, True) == (end.code, end.oom)
    killed = await containers.run_ready(pod, containers.programs.sleeps())
    await containers.backend.kill_container(killed.id, signal.SIGKILL)
    end = await containers.wait(killed.id)
    assert (137, False) == (end.code, end.oom)


async def test_output_during_our_absence_is_not_lost(containers: ShimWorld) -> None:
    """Output of a container while no server runs waits in its pipe, and is in the log after the restart."""
    pod = await containers.sandbox()
    waits = "while [ ! -e /{} ]; do sleep 0.02; done"
    script = f"echo before; {waits.format('go')}; echo between; {waits.format('on')}; echo after"
    spec = await containers.run(pod, ("sh", "-c", script))
    await until(lambda: ("stdout", "before") in read_log(spec))
    root = containers.folder / "roots" / spec.id
    await containers.close()
    (root / "go").touch()
    await asyncio.sleep(0.3)
    assert [("stdout", "before")] == read_log(spec)
    await containers.restart()
    assert ContainerState.RUNNING is (await containers.seen(spec.id)).state  # type: ignore[union-attr]
    (root / "on").touch()
    assert 0 == (await containers.wait(spec.id)).code
    assert [("stdout", "before"), ("stdout", "between"), ("stdout", "after")] == read_log(spec)


async def test_an_exit_while_no_server_runs_is_reported(containers: ShimWorld) -> None:
    """An exit while no server runs is known after the restart."""
    pod = await containers.sandbox()
    spec = await containers.run(pod, ("sh", "-c", "while [ ! -e /go ]; do sleep 0.02; done; exit 11"))
    pid = (await containers.runtime.state(spec.id)).pid
    await containers.close()
    (containers.folder / "roots" / spec.id / "go").touch()
    await until(lambda: not running(pid))
    await containers.restart()
    seen = await containers.seen(spec.id)
    assert seen is not None
    assert seen.exit is not None
    assert 11 == seen.exit.code


async def test_terminals_have_sizes(containers: ShimWorld) -> None:
    """A terminal gets its size, of an exec and of a container that is attached to; its stdin is copied."""

    async def sizes() -> AsyncIterator[TerminalSize]:
        yield TerminalSize(width=101, height=33)
        await asyncio.Event().wait()

    waits = "stty size; while [ \"$(stty size)\" != '33 101' ]; do sleep 0.05; done; echo sized"
    pod = await containers.sandbox()
    spec = await containers.run(pod, ("sh", "-c", f"read line; echo got $line; {waits}"), tty=True, stdin=True)
    out, source = Sink(), Source()
    attached = asyncio.ensure_future(containers.pods.attach(spec.id, ProcessIO(stdin=source, stdout=out, sizes=sizes())))
    source.feed(b"hello\n")
    await out.has(b"got hello")
    await out.has(b"sized")
    assert 0 == (await containers.wait(spec.id)).code
    await attached
    other = await containers.run_ready(pod, containers.programs.sleeps())
    out = Sink()
    source = Source()
    io = ProcessIO(stdin=source, stdout=out, sizes=sizes())
    end = await containers.pods.exec(other.id, ExecSpec(argv=("sh", "-c", waits), tty=True), io)
    assert 0 == end.code
    assert out.data.endswith(b"sized\r\n")


async def test_an_exec_that_is_cancelled_leaves_nothing(containers: ShimWorld) -> None:
    """A cancelled exec's process is killed, and its pipes are removed."""
    pod = await containers.sandbox()
    spec = await containers.run_ready(pod, containers.programs.sleeps())
    out = Sink()
    loops = ("sh", "-c", "echo in; while :; do sleep 0.05; done")
    running_exec = asyncio.ensure_future(containers.pods.exec(spec.id, ExecSpec(argv=loops), ProcessIO(stdout=out)))
    await out.has(b"in\n")
    running_exec.cancel()
    await asyncio.gather(running_exec, return_exceptions=True)
    assert b"" == await output(
        containers, spec.id, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | grep -q 'echo [i]n' && echo there"
    )
    folder = (await containers.runtime._sandbox(pod.id)).folder
    assert [spec.id] == [path.name for path in (folder.path / "io").iterdir()]


async def test_usage_is_the_shims(containers: ShimWorld) -> None:
    """A running container's usage comes from the shim: time, memory, tasks, and the memory left below its limit."""
    pod = await containers.sandbox()
    limits = Resources(memory_limit_in_bytes=64 << 20)
    spec = await containers.run_ready(pod, containers.programs.sleeps(), resources=limits)
    usage = await containers.pods.container_usage(spec.id)
    assert usage.cpu is not None
    assert usage.memory is not None
    assert usage.process is not None
    assert (usage.cpu.usage_core_nano_seconds or 0) > 0
    assert 64 << 20 == (usage.memory.working_set_bytes or 0) + (usage.memory.available_bytes or 0)
    assert (usage.process.process_count or 0) > 0
    await containers.backend.kill_container(spec.id, signal.SIGKILL)
    await containers.wait(spec.id)
    assert None is (await containers.pods.container_usage(spec.id)).cpu


async def test_a_paused_container_can_be_removed(containers: ShimWorld) -> None:
    """The removal of a paused container resumes it, kills it, and leaves nothing."""
    pod = await containers.sandbox()
    spec = await containers.run_ready(pod, containers.programs.sleeps())
    await containers.pods.pause_container(spec.id)
    await containers.backend.remove_container(spec.id)
    assert None is await containers.seen(spec.id)


async def test_nothing_is_created_twice(containers: ShimWorld) -> None:
    """A second creation, of a sandbox's own container or of another, is refused, and the first continues; so is a start."""
    pod = await containers.sandbox()
    spec = await containers.run_ready(pod, containers.programs.sleeps())
    for name, bundle in (
        (pod.id, containers.pods._pods / pod.id / "pause"),
        (spec.id, containers.pods._bundles / spec.id),
    ):
        with pytest.raises(AlreadyExists):
            await containers.runtime.create(name, bundle, Stdio())
    with pytest.raises(CrishimError):
        await containers.runtime.start(spec.id)
    assert b"still\n" == await output(containers, spec.id, "echo", "still")


async def tidied(containers: ShimWorld) -> None:
    """Remove everything, with retries while the leftovers of a dead shim are being freed."""
    done = False
    while not done:
        with contextlib.suppress(Unavailable):
            await containers.tidy()
            done = True
        await asyncio.sleep(0.05)


async def test_the_shim_dies_under_load(containers: ShimWorld) -> None:
    """When the shim is killed while containers are created, started and ended, no call hangs and nothing is left."""
    pod = await containers.sandbox()

    async def life() -> None:
        spec = await containers.run(pod, containers.programs.sleeps())
        await containers.wait(spec.id)

    lives = [asyncio.ensure_future(life()) for _ in range(8)]
    await asyncio.sleep(0.25)
    os.kill(containers.shims()[0], signal.SIGKILL)
    async with asyncio.timeout(60):
        await asyncio.gather(*lives, return_exceptions=True)
        await tidied(containers)
    listed = containers.folder / "r/runtime/crishim"
    assert [] == [path.name for path in listed.iterdir()]


async def test_an_unknown_container_is_not_found(containers: ShimWorld) -> None:
    """Every call for an unknown container is NotFound."""
    runtime = containers.runtime
    for work in (runtime.state("x"), runtime.kill("x", 9), runtime.delete("x"), runtime.wait("x"), runtime.cgroup_usage("x")):
        with pytest.raises(NotFound):
            await work


async def test_we_are_killed_in_the_middle(containers: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill of ours between a shim's start and its answer, the removal finds the shim and ends it."""
    begun = asyncio.Event()

    async def hangs(*_: object, **__: object) -> int:
        begun.set()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    with monkeypatch.context() as patched:
        patched.setattr(ShimLink, "create", hangs)
        start = asyncio.ensure_future(containers.sandbox())
        await begun.wait()
        sandbox_id = containers._sandboxes[-1]
        folder = (await containers.runtime._sandbox(sandbox_id)).folder
        record = folder.shim()
        assert record is not None
        await containers.close()
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
    folder.write_shim(attrs.evolve(record, address=""))
    folder.forget_task(sandbox_id)
    assert 1 == len(containers.shims())
    await containers.restart()
    await containers.backend.stop_sandbox(sandbox_id)
    assert [] == containers.shims()
