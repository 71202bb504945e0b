"""Bundles that are found again after a restart of ours. Everything else of the lift is in the exam of its backends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crishim.backends.runc.pods import build
from crishim.errors import NotFound
from crishim.linux.processes import ended as process_ended
from crishim.linux.processes import recorded
from crishim.model.container import ContainerState
from crishim.model.values import ContainerId, SandboxId
from crishim.monitor.conmon import MONITOR_PROCESS
from crishim.pods.backend import OciPodBackend
from crishim.testing import Harness
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs, node

pytestmark = [pytest.mark.node, needs("runc", "conmon", "busybox")]

COUNTING = """#!/bin/sh
echo "$*" >> {folder}/ran
case " $* " in
*" state "*) echo "$*" >> {folder}/queries; [ ! -e {folder}/broken ] || exit 3;;
*" start "*) [ ! -e {folder}/hang ] || {{ runc "$@"; touch {folder}/hung; exec sleep 600; }};;
esac
exec runc "$@"
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Harness]:
    program = tmp_path / "runc-that-counts"
    program.write_text(COUNTING.format(folder=tmp_path))
    program.chmod(0o755)
    (tmp_path / "queries").touch()
    async with node(tmp_path, runtime=str(program)) as world:
        yield world


async def found(world: Harness) -> dict[str, ContainerState]:
    """What a backend that has just been started finds."""
    assert isinstance(world.backend, OciPodBackend)
    inventory = await build(world.backend._context).inventory()
    return {observed.id: observed.state for observed in inventory.containers}


async def three(world: Harness) -> tuple[ContainerId, ContainerId, ContainerId]:
    """A container that was not started, one that runs, and one that has ended."""
    sandbox = await world.run_sandbox()
    created = await world.create_container(sandbox, "created", "sleep", "600")
    running = await world.run_container(sandbox, "running", "sleep", "600")
    past = await world.run_container(sandbox, "past", "true")
    await world.backend.wait_container(past)
    return created, running, past


async def test_a_node_is_found_again_without_a_process_for_each_container(world: Harness, tmp_path: Path) -> None:
    """The files of bundles show the state of their containers: the runtime is called for none of them."""
    created, running, past = await three(world)
    states = {created: ContainerState.CREATED, running: ContainerState.RUNNING, past: ContainerState.EXITED}
    assert (states, "") == (await found(world), (tmp_path / "queries").read_text())


async def test_the_runtime_is_queried_after_an_interrupted_start(world: Harness, tmp_path: Path) -> None:
    """If a start was begun and its result is unknown, the runtime reports whether it succeeded."""
    created, running, _ = await three(world)
    bundles = tmp_path / "run" / "containers"
    (bundles / created / "starting").write_text("1")
    (bundles / running / "started-at").rename(bundles / running / "starting")
    states = await found(world)
    assert (ContainerState.CREATED, ContainerState.RUNNING) == (states[created], states[running])
    assert {created, running} == {line.split()[-1] for line in (tmp_path / "queries").read_text().splitlines()}


async def test_the_runtime_is_queried_after_an_abandoned_start(world: Harness, tmp_path: Path) -> None:
    """Whoever gives up a start does not know whether it took place; a later look does."""
    created = await world.create_container(await world.run_sandbox(), "created", "sleep", "600")
    (tmp_path / "hang").touch()
    starting = asyncio.ensure_future(world.backend.start_container(created))
    await until((tmp_path / "hung").exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert ContainerState.RUNNING is (await found(world))[created]


async def test_the_runtime_is_queried_for_a_container_without_its_monitor(world: Harness, tmp_path: Path) -> None:
    """A container whose monitor was killed may be running: the runtime is queried."""
    _, running, _ = await three(world)
    monitor = recorded(tmp_path / "run" / "containers" / running / MONITOR_PROCESS)
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGKILL)
    await process_ended(monitor)
    assert ContainerState.RUNNING is (await found(world))[running]
    assert [running] == [line.split()[-1] for line in (tmp_path / "queries").read_text().splitlines()]


async def test_a_bundle_of_which_there_is_only_the_folder(world: Harness, tmp_path: Path) -> None:
    """A creation that ended with the server, before config.json was written, is found, and removed like any other."""
    bundle = tmp_path / "run" / "containers" / ("0" * 64)
    bundle.mkdir(parents=True)
    assert isinstance(world.backend, OciPodBackend)
    again = build(world.backend._context)
    assert [(bundle.name, ContainerState.CREATED)] == [
        (observed.id, observed.state) for observed in (await again.inventory()).containers
    ]
    await again.remove_container(ContainerId(bundle.name))
    assert not bundle.exists()


async def test_a_container_that_the_runtime_cannot_look_at(world: Harness, tmp_path: Path) -> None:
    """One container whose state cannot be had is found as its start has left it, and so are all the others."""
    created, running, past = await three(world)
    bundles = tmp_path / "run" / "containers"
    (bundles / running / "started-at").rename(bundles / running / "starting")
    (tmp_path / "broken").touch()
    expected = {created: ContainerState.CREATED, running: ContainerState.RUNNING, past: ContainerState.EXITED}
    assert expected == await found(world)
    (tmp_path / "broken").unlink()


async def ended(world: Harness, tmp_path: Path) -> tuple[SandboxId, ContainerId]:
    """A pod with a container that has ended, and of which the runtime knows nothing any more."""
    sandbox = await world.run_sandbox()
    container = await world.run_container(sandbox, "past", "sh", "-c", "exit 3")
    await world.backend.wait_container(container)
    await until((tmp_path / "run" / "containers" / container / "released").exists)
    return sandbox, container


async def test_removals_of_what_has_ended_run_no_program(world: Harness, tmp_path: Path) -> None:
    """The runtime's resources of a container are freed at its exit, so that its removal, and its pod's, run no program."""
    sandbox, container = await ended(world, tmp_path)
    await world.services.sandboxes.stop(sandbox)
    (tmp_path / "ran").write_text("")
    await world.services.containers.remove(container)
    await world.services.sandboxes.remove(sandbox)
    assert ("", []) == ((tmp_path / "ran").read_text(), list((tmp_path / "run" / "containers").iterdir()))


async def test_what_was_released_is_found_as_it_has_ended(world: Harness, tmp_path: Path) -> None:
    """State, exit and a kill's refusal are as before, here and after a restart of ours."""
    _, container = await ended(world, tmp_path)
    assert 3 == (await world.backend.wait_container(container)).code
    with pytest.raises(NotFound):
        await world.backend.kill_container(container, signal.SIGKILL)
    assert ContainerState.EXITED is (await found(world))[container]
    assert isinstance(world.backend, OciPodBackend)
    later = build(world.backend._context)
    await later.inventory()
    assert 3 == (await later.wait_container(container)).code


async def test_a_release_that_was_broken_off(world: Harness, tmp_path: Path) -> None:
    """Where the runtime has forgotten a container, and we died before that was written, its removal goes through."""
    sandbox, container = await ended(world, tmp_path)
    (tmp_path / "run" / "containers" / container / "released").unlink()
    await world.services.sandboxes.stop(sandbox)
    await world.services.sandboxes.remove(sandbox)
    assert [] == list((tmp_path / "run" / "containers").iterdir())


async def test_a_removal_during_the_release(world: Harness, tmp_path: Path) -> None:
    """A removal that comes while the end of its container is worked on waits for that, and leaves nothing."""
    sandbox = await world.run_sandbox()
    for number in range(5):
        container = await world.run_container(sandbox, f"past{number}", "sleep", "600")
        await world.services.containers.stop(container, 0)
        await world.services.containers.remove(container)
    assert [] == list((tmp_path / "run" / "containers").iterdir())
