"""What kata's shim does not forgive, one point after the other: the stand-in does not either, and we do not offend."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from crishim.errors import CrishimError, DeadlineExceeded, NotFound, Unavailable, Unimplemented, Unknown
from crishim.interfaces.capabilities import ProcessIO
from crishim.logs.stdio import ContainerStdio
from crishim.model.container import ContainerSpec, ContainerState
from crishim.model.process import ExecSpec
from crishim.model.sandbox import SandboxSpec
from crishim.shimv2.client import cleanup, sandbox
from crishim.shimv2.client.binary import ShimBinary
from crishim.shimv2.client.connection import ShimLink
from crishim.shimv2.client.fifos import ShimLog
from crishim.shimv2.client.streams import LocalStreams
from crishim.shimv2.wire.messages import Bootstrap
from crishim.testing.conformance.candidate import until
from crishim.testing.conformance.logs import read_log
from crishim.testing.conformance.offers import Sink, Source
from tests.backends.runc.world import needs
from tests.shimv2.kata_shim import MACHINES
from tests.shimv2.world import STAND_IN, ShimWorld, host_leftovers, stand_in

pytestmark = [pytest.mark.node, needs("busybox", "unshare", "catatonit")]


async def link_of(world: ShimWorld, pod: SandboxSpec) -> ShimLink:
    return await (await world.runtime._sandbox(pod.id)).link()


def machine_of(world: ShimWorld, pod: SandboxSpec) -> int:
    return int((world.folder / "host" / MACHINES / pod.id / "pid").read_text())


async def gone(pid: int) -> None:
    """Return when a process has ended, collected or not."""
    path = Path(f"/proc/{pid}/stat")
    await until(lambda: not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z")


async def test_one_shim_for_a_pod(machines: ShimWorld) -> None:
    """Two pods of two containers are two shims and two machines."""
    for _ in range(2):
        pod = await machines.sandbox()
        for _ in range(2):
            await machines.run_ready(pod, machines.programs.sleeps())
    assert 2 == len(machines.shims())
    assert 6 == len(host_leftovers(machines.folder))


async def test_the_log_must_be_read(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a reader of the pipe `log` no machine boots, and no shim is left of the attempt."""
    with monkeypatch.context() as patched:
        patched.setattr(ShimLog, "open", lambda self: None)
        with pytest.raises(CrishimError):
            await machines.sandbox()
    assert [] == machines.shims()


async def test_a_log_that_is_not_emptied_stops_the_machine(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe `log` that is open and not read holds the shim up in the middle of the boot."""
    monkeypatch.setattr(ShimLog, "_read", lambda self: asyncio.get_running_loop().remove_reader(self._fd))
    monkeypatch.setattr(ShimLink, "long_timeout", 0.5)
    monkeypatch.setattr(ShimLink, "timeout", 0.5)
    with pytest.raises(DeadlineExceeded):
        await machines.sandbox()


async def test_a_member_has_the_address_of_its_sandbox(machines: ShimWorld) -> None:
    """`start` for a member answers the plain address of the sandbox's shim, and starts nothing."""
    pod = await machines.sandbox()
    spec = await machines.create(pod, machines.programs.sleeps())
    binary: ShimBinary = machines.runtime._binary
    bootstrap = await binary.start(spec.id, machines.pods._bundles / spec.id)
    record = (await machines.runtime._sandbox(pod.id)).folder.shim()
    assert record is not None
    assert Bootstrap(record.address, 2) == bootstrap
    assert 1 == len(machines.shims())


async def test_a_delete_right_after_the_end_is_tried_again(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete is refused for a while after Wait has returned; a removal at once succeeds nevertheless."""
    pod = await machines.sandbox()
    spec = await machines.run(pod, machines.programs.fails(3))
    await machines.wait(spec.id)
    with pytest.raises(Unknown):
        await (await link_of(machines, pod)).delete(spec.id)
    with monkeypatch.context() as patched:
        patched.setattr(cleanup, "_FREED_WITHIN", 0.0)
        with pytest.raises(Unknown):
            await machines.backend.remove_container(spec.id)
    await machines.backend.remove_container(spec.id)
    assert None is await machines.seen(spec.id)


async def test_stdin_is_closed_before_close_io(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """CloseIO does not answer while our end is open, and does when it was closed before: the process gets its end."""
    pod = await machines.sandbox()
    spec = await machines.run(pod, machines.programs.copies(), stdin=True, stdin_once=True)
    with monkeypatch.context() as patched:
        patched.setattr(ShimLink, "timeout", 0.3)
        with pytest.raises(DeadlineExceeded):
            await (await link_of(machines, pod)).close_stdin(spec.id)
    source, out = Source(), Sink()
    source.feed(b"all\n")
    source.end()
    await machines.pods.attach(spec.id, ProcessIO(stdin=source, stdout=out))
    assert 0 == (await machines.wait(spec.id)).code
    assert [("stdout", "all")] == read_log(spec)


async def test_much_output_is_read_to_its_end(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait returns when all output was read; a megabyte reaches the log completely. Unread, the exit is never reported."""
    pod = await machines.sandbox()
    many = (
        "sh",
        "-c",
        "i=0; while [ $i -lt 20000 ]; do echo 0123456789012345678901234567890123456789012345678; i=$((i+1)); done",
    )
    spec = await machines.run(pod, many)
    assert 0 == (await machines.wait(spec.id)).code
    assert 20000 == len(read_log(spec))
    with monkeypatch.context() as patched:
        patched.setattr(ContainerStdio, "_start_pumps", lambda self: None)
        unread = await machines.run(pod, many)
        done, _ = await asyncio.wait({asyncio.ensure_future(machines.backend.wait_container(unread.id))}, timeout=1)
    assert set() == done
    task = (await machines.runtime._sandbox(pod.id)).task(unread.id)
    assert isinstance(task.streams, LocalStreams)
    task.streams._stdio._start_pumps()
    assert 0 == (await machines.wait(unread.id)).code


async def test_the_year_one_is_no_time(machines: ShimWorld) -> None:
    """An exec's end has its code and no time; a container's has both."""
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    end = await machines.pods.exec(spec.id, ExecSpec(argv=machines.programs.fails(4)), ProcessIO())
    assert (4, None) == (end.code, end.at)
    await machines.backend.kill_container(spec.id, signal.SIGKILL)
    ended = await machines.wait(spec.id)
    assert ended.at is not None
    assert ended.at > 0


async def test_sigterm_without_a_handler_is_a_kill(machines: ShimWorld) -> None:
    """SIGTERM to a first process without a handler ends it with 137."""
    pod = await machines.sandbox()
    spec = await machines.run(pod, ("sleep", "600"))
    await machines.backend.kill_container(spec.id, signal.SIGTERM)
    assert 137 == (await machines.wait(spec.id)).code


async def test_calls_for_an_ended_container(machines: ShimWorld) -> None:
    """A kill of the ended is harmless, a wait sticky, a second start refused; an unknown id is NotFound."""
    pod = await machines.sandbox()
    spec = await machines.run(pod, machines.programs.fails(6))
    assert [6, 6] == [(await machines.wait(spec.id)).code for _ in range(2)]
    link = await link_of(machines, pod)
    await link.kill(spec.id, signal.SIGKILL)
    with pytest.raises(Unknown):
        await link.start(spec.id)
    with pytest.raises(NotFound):
        await link.state("nobody")


async def test_not_found_is_not_gone(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """NOT_FOUND for a Kill or Delete of a task that State knows is a failure with the shim's reason: the task still exists."""
    monkeypatch.setattr(cleanup, "_FREED_WITHIN", 0.1)
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    lost = machines.folder / "host" / "lost"
    lost.touch()
    with pytest.raises(Unknown, match=r"cgroup\.procs does not exist"):
        await machines.backend.kill_container(spec.id, signal.SIGKILL)
    with pytest.raises(Unknown, match=r"cgroup\.procs does not exist"):
        await (await link_of(machines, pod)).delete(spec.id)
    assert ContainerState.RUNNING is await state_of(machines, spec)
    lost.unlink()
    with pytest.raises(NotFound, match="nobody"):
        await (await link_of(machines, pod)).kill("nobody", signal.SIGKILL)


async def test_a_create_that_is_broken_off(machines: ShimWorld) -> None:
    """A member's creation that the guest hangs up on, since another container ends, is tried again once."""
    pod = await machines.sandbox()
    (machines.folder / "host" / "hangs-up").touch()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    assert ContainerState.RUNNING is await state_of(machines, spec)


async def test_shutdown_lies_while_members_exist(machines: ShimWorld) -> None:
    """Shutdown with members answers and ends nothing; stopping the pod frees them first, and how they ended is still known."""
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    link = await link_of(machines, pod)
    await link.shutdown(pod.id)
    assert ContainerState.RUNNING is (await state_of(machines, spec))
    await machines.backend.stop_sandbox(pod.id)
    assert ([], []) == (machines.shims(), host_leftovers(machines.folder))
    assert 137 == (await machines.wait(spec.id)).code
    assert ContainerState.EXITED is (await state_of(machines, spec))


async def state_of(world: ShimWorld, spec: ContainerSpec) -> ContainerState | None:
    seen = await world.seen(spec.id)
    return None if seen is None else seen.state


async def test_the_machine_dies(machines: ShimWorld) -> None:
    """When the machine dies every waiter gets 255 at once, the sandbox's too; the removal frees the shim as well."""
    pod = await machines.sandbox()
    specs = [await machines.run_ready(pod, machines.programs.sleeps()) for _ in range(2)]
    waits = [asyncio.ensure_future(machines.wait(spec.id)) for spec in specs]
    life = asyncio.ensure_future(machines.runtime.wait(pod.id))
    await asyncio.sleep(0)
    os.kill(machine_of(machines, pod), signal.SIGKILL)
    assert [255, 255, 255] == [end.code for end in await asyncio.gather(*waits, life)]
    await machines.tidy()
    assert ([], []) == (machines.shims(), host_leftovers(machines.folder))


async def test_the_shim_dies(machines: ShimWorld) -> None:
    """When the shim dies its binary's `delete` runs for every id, members first: machine and folders go, exits are known."""
    pod = await machines.sandbox()
    specs = [await machines.run_ready(pod, machines.programs.sleeps()) for _ in range(2)]
    waits = [asyncio.ensure_future(machines.wait(spec.id)) for spec in specs]
    life = asyncio.ensure_future(machines.runtime.wait(pod.id))
    machine = machine_of(machines, pod)
    (shim,) = machines.shims()
    os.kill(shim, signal.SIGKILL)
    assert [137, 137, 137] == [end.code for end in await asyncio.gather(*waits, life)]
    await until(lambda: [] == host_leftovers(machines.folder))
    await gone(machine)
    with pytest.raises((Unavailable, NotFound)):
        await machines.pods.exec(specs[0].id, ExecSpec(argv=machines.programs.fails(0)), ProcessIO())


async def test_one_delete_frees_nothing(machines: ShimWorld) -> None:
    """`delete` for the sandbox alone succeeds and leaves the machine running: every id counts."""
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    sandbox = await machines.runtime._sandbox(pod.id)
    record = sandbox.folder.shim()
    assert record is not None
    await machines.close()
    (shim,) = machines.shims()
    os.kill(shim, signal.SIGKILL)
    binary: ShimBinary = machines.runtime._binary
    assert 137 == (await binary.delete(pod.id, Path(record.bundle))).code
    assert 3 == len(host_leftovers(machines.folder))
    await machines.restart()
    assert 137 == (await machines.wait(spec.id)).code
    assert ContainerState.EXITED is await state_of(machines, spec)
    await until(lambda: [] == host_leftovers(machines.folder))


async def test_the_shim_dies_while_we_are_away(machines: ShimWorld) -> None:
    """A shim that died while no server ran is found dead at the next start, and its leftovers are freed."""
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    await machines.close()
    (shim,) = machines.shims()
    os.kill(shim, signal.SIGKILL)
    await machines.restart()
    assert 137 == (await machines.wait(spec.id)).code
    assert ContainerState.EXITED is await state_of(machines, spec)
    await until(lambda: [] == host_leftovers(machines.folder))


async def test_a_shim_that_never_answers(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging shim is killed by the removal of its pod, and its leftovers are freed."""
    pod = await machines.sandbox()
    await machines.run_ready(pod, machines.programs.sleeps())
    monkeypatch.setattr(ShimLink, "timeout", 0.3)
    (shim,) = machines.shims()
    os.kill(shim, signal.SIGSTOP)
    await machines.backend.stop_sandbox(pod.id)
    assert [] == host_leftovers(machines.folder)
    await gone(shim)


async def test_a_start_that_is_cancelled(machines: ShimWorld) -> None:
    """However early a sandbox's start is cancelled, its removal ends the shim that it has begun to start."""
    for steps in (1, 3, 20, 60):
        spec = machines.sandbox_spec()
        namespaces = machines.candidate.context.namespaces
        assert namespaces is not None
        machines._sandboxes.append(spec.id)
        netns = await namespaces.create(spec)
        begun = asyncio.ensure_future(machines.backend.start_sandbox(type(spec)(id=spec.id, config=spec.config, netns=netns)))
        for _ in range(steps):
            await asyncio.sleep(0.005)
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)
    await machines.tidy()
    assert ([], []) == (machines.shims(), host_leftovers(machines.folder))


def become(world: ShimWorld, script: str) -> None:
    """Put a shell script in the place of the shim."""
    Path(world.runtime._binary.program).write_text(f"#!/bin/sh\n{script}\n")


async def test_garbage_instead_of_an_address(machines: ShimWorld) -> None:
    """A shim that prints an invalid address fails the start with its output."""
    become(machines, "echo something went wrong, sorry")
    with pytest.raises(Unknown, match="something went wrong"):
        await machines.sandbox()
    become(machines, "echo not today >&2; exit 3")
    with pytest.raises(Unknown, match="not today"):
        await machines.sandbox()


@pytest.mark.parametrize(("answers", "bootstrap"), [("json", False), ("protobuf", True)])
async def test_shims_of_other_ages(machines: ShimWorld, answers: str, bootstrap: bool) -> None:
    """A shim that says version 3, in JSON or protobuf, is spoken to by task v3, before and after a restart of ours."""
    (machines.folder / "host").mkdir(exist_ok=True)
    (machines.folder / "host" / "answers").write_text(answers)
    machines.runtime._binary = attrs.evolve(machines.runtime._binary, bootstrap=bootstrap)
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    record = (await machines.runtime._sandbox(pod.id)).folder.shim()
    assert record is not None
    assert 3 == record.version
    await machines.restart()
    assert ContainerState.RUNNING is await state_of(machines, spec)
    await machines.backend.kill_container(spec.id, signal.SIGTERM)
    assert 143 == (await machines.wait(spec.id)).code


async def test_a_shim_of_another_version_is_ended(machines: ShimWorld) -> None:
    """A shim that does not know the requested service, and so cannot even report its pid, is killed nevertheless."""
    (machines.folder / "host").mkdir(exist_ok=True)
    (machines.folder / "host" / "answers").write_text("json")
    script = f"{sys.executable} {STAND_IN} {machines.folder}/host"
    become(machines, f'{script} "$@" | sed "s/: 3/: 2/"')
    with pytest.raises(Unimplemented):
        await machines.sandbox()
    assert [] == machines.shims()


async def test_a_shim_that_wants_parameters_gets_none(machines: ShimWorld) -> None:
    """A shim that requires parameters, and is not known to, fails the start with its message."""
    (machines.folder / "host").mkdir(exist_ok=True)
    (machines.folder / "host" / "answers").write_text("protobuf")
    with pytest.raises(Unknown, match="deprecated"):
        await machines.sandbox()


async def test_nonsense_instead_of_a_shim(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim that responds with garbage, or not at all, fails the start within its timeout, and is removed with the pod."""
    monkeypatch.setattr(ShimLink, "long_timeout", 0.3)
    monkeypatch.setattr(ShimLink, "timeout", 0.3)
    monkeypatch.setattr(sandbox, "_SHUTDOWN_TIMEOUT", 0.3)

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"\xff" * 1000)
        writer.close()

    server = await asyncio.start_unix_server(nonsense, machines.folder / "n")
    become(machines, f"echo unix://{machines.folder}/n")
    with pytest.raises(DeadlineExceeded):
        await machines.sandbox()
    server.close()
    await machines.tidy()
    assert [] == list((machines.folder / "r" / "shims").iterdir())


async def test_a_stale_address_is_no_shim(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a listener means that the shim has ended."""
    monkeypatch.setattr(sandbox, "_PAUSE", 0.01)
    become(machines, f"echo unix://{machines.folder}/nobody")
    with pytest.raises(Unavailable):
        await machines.sandbox()


def test_the_version_of_the_stand_in(tmp_path: Path) -> None:
    """`--version` is kata's version; `-v`, as with every Go shim, that of containerd's library."""
    for flag, version in (("--version", "version: 4.1.0"), ("-v", "Version:  1.7.25")):
        done = subprocess.run([stand_in(tmp_path), flag], capture_output=True, text=True, check=True)
        assert version in done.stdout
