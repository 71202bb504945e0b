"""What becomes of a pod whose shim is dead or hangs: its containers have ended, its machine is freed, or it is not removed."""

import asyncio
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from crishim.errors import DeadlineExceeded, Unavailable
from crishim.linux.children import become_subreaper
from crishim.model.container import ContainerState
from crishim.shimv2.client import burial, runtime, sandbox
from crishim.shimv2.client.connection import ShimLink
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs
from tests.shimv2.kata_shim import MACHINES
from tests.shimv2.world import ShimWorld, host_leftovers

pytestmark = [pytest.mark.node, needs("busybox", "unshare", "catatonit")]

FOR_EVER = 600.0


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Orphans become this process's children, as in a server that runs runc too."""
    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


def machine_of(world: ShimWorld, pod: str) -> int:
    return int((world.folder / "host" / MACHINES / pod / "pid").read_text())


def slow(world: ShimWorld) -> Path:
    """Make `delete` of the stand-in take too long, until the file is removed."""
    world.runtime._binary = attrs.evolve(world.runtime._binary, timeout=3.0)
    file = world.folder / "host" / "slow"
    file.parent.mkdir(exist_ok=True)
    file.write_text(str(FOR_EVER))
    return file


async def test_a_delete_that_takes_too_long(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod with leftovers that `delete` could not free stays: containers have ended, stop and removal fail with the
    leftovers.
    """
    monkeypatch.setattr(burial, "_RETRY_PAUSE", FOR_EVER)
    file = slow(machines)
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    (shim,) = machines.shims()
    os.kill(shim, signal.SIGKILL)
    assert 255 == (await machines.wait(spec.id)).code
    for verb in (machines.backend.stop_sandbox, machines.backend.remove_sandbox):
        with pytest.raises(Unavailable, match=r"delete took longer than 3 s"):
            await verb(pod.id)
    with pytest.raises(Unavailable):
        await machines.backend.remove_container(spec.id)
    assert [] != host_leftovers(machines.folder)
    file.unlink()
    await machines.backend.stop_sandbox(pod.id)
    assert [] == host_leftovers(machines.folder)


async def test_leftovers_are_freed_in_the_background(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leftovers that could not be freed are retried in the background, before and after a restart."""
    monkeypatch.setattr(burial, "_RETRY_PAUSE", 0.1)
    monkeypatch.setattr(burial, "_LONGEST_RETRY_PAUSE", 0.1)
    for restarted in (False, True):
        file = slow(machines)
        pod = await machines.sandbox()
        spec = await machines.run_ready(pod, machines.programs.sleeps())
        (shim,) = machines.shims()
        os.kill(shim, signal.SIGKILL)
        assert 255 == (await machines.wait(spec.id)).code
        if restarted:
            await machines.restart()
            seen = await machines.seen(spec.id)
            assert seen is not None
            assert ContainerState.EXITED is seen.state
        file.unlink()
        await until(lambda: [] == host_leftovers(machines.folder))
        await machines.backend.stop_sandbox(pod.id)


async def test_a_shim_that_hangs_is_killed_soon(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a sandbox does not wait for calls that a stopped shim never answers."""
    monkeypatch.setattr(sandbox, "_PING_TIMEOUT", 0.3)
    monkeypatch.setattr(ShimLink, "timeout", FOR_EVER)
    pod = await machines.sandbox()
    await machines.run_ready(pod, machines.programs.sleeps())
    (shim,) = machines.shims()
    os.kill(shim, signal.SIGSTOP)
    async with asyncio.timeout(60):
        await machines.backend.stop_sandbox(pod.id)
    assert ([], []) == (machines.shims(), host_leftovers(machines.folder))


async def test_a_machine_that_hangs_is_killed(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that cannot be killed, since its machine is stopped, does not stop the end of its sandbox."""
    monkeypatch.setattr(sandbox, "_FREE_TIMEOUT", 1.0)
    monkeypatch.setattr(ShimLink, "timeout", FOR_EVER)
    pod = await machines.sandbox()
    await machines.run_ready(pod, machines.programs.sleeps())
    machine = machine_of(machines, pod.id)
    os.kill(machine, signal.SIGSTOP)
    async with asyncio.timeout(60):
        await machines.backend.stop_sandbox(pod.id)
    assert ([], []) == (machines.shims(), host_leftovers(machines.folder))


async def test_usage_of_a_shim_that_hangs(machines: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usage of a container whose shim hangs is an error soon, whatever the time that other calls have."""
    monkeypatch.setattr(runtime, "_USAGE_TIMEOUT", 0.2)
    monkeypatch.setattr(ShimLink, "timeout", FOR_EVER)
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    (shim,) = machines.shims()
    os.kill(shim, signal.SIGSTOP)
    async with asyncio.timeout(60):
        with pytest.raises(DeadlineExceeded):
            await machines.pods.container_usage(spec.id)
    os.kill(shim, signal.SIGCONT)


@pytest.mark.usefixtures("subreaper")
@pytest.mark.parametrize("killed", [False, True])
async def test_shims_are_collected(machines: ShimWorld, killed: bool) -> None:
    """Of a pod's shim and machine no zombie is left to a subreaper, whether the pod was stopped or its shim killed."""
    pod = await machines.sandbox()
    await machines.run_ready(pod, machines.programs.sleeps())
    machine = machine_of(machines, pod.id)
    (shim,) = machines.shims()
    if killed:
        os.kill(shim, signal.SIGKILL)
        await until(lambda: [] == host_leftovers(machines.folder))
    else:
        await machines.backend.stop_sandbox(pod.id)
    async with asyncio.timeout(5):  # other orphans are collected, too, but no sooner than after ten seconds
        await until(lambda: not Path(f"/proc/{shim}").exists() and not Path(f"/proc/{machine}").exists())


async def test_a_shim_that_died_while_we_were_away_holds_up_no_inventory(
    machines: ShimWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead shim is found at a restart and buried in the background: its containers are shown, and have ended afterwards."""
    monkeypatch.setattr(burial, "_RETRY_PAUSE", 0.1)
    monkeypatch.setattr(burial, "_LONGEST_RETRY_PAUSE", 0.1)
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    (shim,) = machines.shims()
    await machines.runtime.detach()
    os.kill(shim, signal.SIGKILL)
    slow(machines).write_text("3")
    await machines.restart()
    assert await machines.seen(spec.id) is not None
    assert {pod.id: ("leftovers that were not looked for yet",)} == machines.runtime.leftovers()
    assert 137 == (await machines.wait(spec.id)).code
    await until(lambda: {} == machines.runtime.leftovers())
    await machines.backend.stop_sandbox(pod.id)
    assert [] == host_leftovers(machines.folder)
