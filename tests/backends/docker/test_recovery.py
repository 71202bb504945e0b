"""Restarts of the server and the engine, and containers changed by other programs."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.errors import CrishimError
from crishim.model.container import ContainerState
from crishim.model.runtime import ContainerEventType
from crishim.model.sandbox import PodSandboxState
from tests.backends.docker.node import SLEEPS, Node, counts
from tests.backends.docker.world import Dockerd, dockerd, needs

pytestmark = [pytest.mark.node, needs("dockerd", "busybox", "catatonit")]


@pytest.fixture(scope="module")
def fragile() -> Iterator[Dockerd]:
    """An engine whose end is the end of its containers; tests may stop and start it."""
    with dockerd() as running:
        yield running


@pytest.fixture(scope="module")
def lasting() -> Iterator[Dockerd]:
    """An engine that leaves its containers running."""
    with dockerd("--live-restore") as running:
        yield running


async def test_restart_of_ours_loses_no_line(engine: Dockerd, tmp_path: Path) -> None:
    """A container runs on while no server runs; afterwards its log has every line once, and its exit code is reported."""
    node = Node(tmp_path, engine.socket)
    async with node.running():
        sandbox = await node.sandbox()
        container = await node.container(sandbox, "main", counts(200))
        await node.until_logged("main", 20)
    async with node.running():
        assert (ContainerState.RUNNING, 0, "") == await node.seen(container)
        await node.until_logged("main", 60)
    async with node.running():
        assert (ContainerState.EXITED, 7, "Error") == await node.until_exited(container)
        assert [str(number) for number in range(1, 201)] == node.log("main")
        await node.clear()


async def test_ended_while_we_were_away(engine: Dockerd, tmp_path: Path) -> None:
    """An exit while no server runs is reported with its code, and the log is complete; a removed log stays removed."""
    node = Node(tmp_path, engine.socket)
    async with node.running():
        sandbox = await node.sandbox()
        container = await node.container(sandbox, "main", counts(50))
    wait = await node.engine.post(f"/containers/{container}/wait", "container", container)
    assert 7 == wait["StatusCode"]
    async with node.running():
        assert (ContainerState.EXITED, 7, "Error") == await node.seen(container)
        assert [str(number) for number in range(1, 51)] == node.log("main")
    (tmp_path / "logs" / "main.log").unlink()
    async with node.running():
        assert [] == node.log("main")
        await node.clear()


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_engine_ends_with_its_containers(fragile: Dockerd, tmp_path: Path, end: str) -> None:
    """An engine that ends, or crashes, takes its containers along: when it is back they are EXITED, and their pod NOTREADY."""
    node = Node(tmp_path, fragile.socket)
    async with node.running():
        sandbox = await node.sandbox()
        container = await node.container(sandbox, "main", SLEEPS)
        await asyncio.to_thread(getattr(fragile, end))
        await asyncio.to_thread(fragile.start)
        state, code, _ = await node.until_exited(container)
        assert ContainerState.EXITED is state
        assert code in {137, 143, 255}
        await node.until_not_ready(sandbox)
        await node.until_back()
        assert ContainerEventType.STOPPED in node.kinds(container)
        await node.clear()


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_containers_outlive_their_engine(lasting: Dockerd, tmp_path: Path, end: str) -> None:
    """With live-restore a pod runs on while the engine is down: it stays RUNNING, and its log has every line once."""
    node = Node(tmp_path, lasting.socket)
    async with node.running():
        sandbox = await node.sandbox()
        container = await node.container(sandbox, "main", counts(400))
        await node.until_logged("main", 20)
        await asyncio.to_thread(getattr(lasting, end))
        await node.until_lost()
        await asyncio.to_thread(lasting.start)
        await node.until_back()
        assert PodSandboxState.READY is await node.ready(sandbox)
        assert (ContainerState.EXITED, 7, "Error") == await node.until_exited(container)
        assert [str(number) for number in range(1, 401)] == node.log("main")
        await node.clear()


async def test_killed_behind_our_back(engine: Dockerd, tmp_path: Path) -> None:
    """A container that is killed through the engine is EXITED with 137, with an event; its pod keeps running."""
    node = Node(tmp_path, engine.socket)
    async with node.running():
        sandbox = await node.sandbox()
        container = await node.container(sandbox, "main", SLEEPS)
        await node.engine.post(f"/containers/{container}/kill", "container", container)
        assert (ContainerState.EXITED, 137, "Error") == await node.until_exited(container)
        assert [ContainerEventType.CREATED, ContainerEventType.STARTED, ContainerEventType.STOPPED] == node.kinds(container)
        assert PodSandboxState.READY is await node.ready(sandbox)
        await node.clear()


async def test_removed_behind_our_back(engine: Dockerd, tmp_path: Path) -> None:
    """Objects removed through the engine have ended: container EXITED, pod NOTREADY, each with an event."""
    node = Node(tmp_path, engine.socket)
    async with node.running():
        sandbox = await node.sandbox()
        container = await node.container(sandbox, "main", SLEEPS)
        await node.engine.delete(f"/containers/{container}", force=1)
        state, code, _ = await node.until_exited(container)
        assert (ContainerState.EXITED, True) == (state, code in {137, 255})
        await node.engine.delete(f"/containers/{sandbox}", force=1)
        await node.until_not_ready(sandbox)
        assert ContainerEventType.STOPPED in node.kinds(container)
        assert ContainerEventType.STOPPED in node.kinds(sandbox)
        await node.clear()


async def test_removed_while_we_were_away(engine: Dockerd, tmp_path: Path) -> None:
    """A container that was removed while no server ran has an unknown exit: 255, Unknown."""
    node = Node(tmp_path, engine.socket)
    async with node.running():
        sandbox = await node.sandbox()
        container = await node.container(sandbox, "main", SLEEPS)
    await node.engine.delete(f"/containers/{container}", force=1)
    async with node.running():
        assert (ContainerState.EXITED, 255, "Unknown") == await node.seen(container)
        await node.clear()


async def test_absent_engine_does_not_keep_us_from_starting(fragile: Dockerd, tmp_path: Path) -> None:
    """Without an engine we start, say why nothing can run, and serve when it comes."""
    await asyncio.to_thread(fragile.stop)
    node = Node(tmp_path, fragile.socket)
    async with node.running():
        ready, why = await node.runtime_ready()
        assert (False, True) == (ready, fragile.socket in why)
        with pytest.raises(CrishimError):
            await node.sandbox()
        await asyncio.to_thread(fragile.start)
        await node.until_back()
        sandbox = await node.sandbox()
        assert PodSandboxState.READY is await node.ready(sandbox)
        await node.clear()


async def test_engine_dies_while_it_makes(fragile: Dockerd, tmp_path: Path) -> None:
    """An engine that crashes while it makes containers leaves nothing that could not be removed, and no name that is taken."""
    node = Node(tmp_path, fragile.socket)
    async with node.running():
        sandbox = await node.sandbox()
        makes = [asyncio.create_task(node.container(sandbox, f"c{number}", SLEEPS)) for number in range(8)]
        await asyncio.sleep(0.15)  # any moment will do
        await asyncio.to_thread(fragile.kill)
        await asyncio.wait(makes)
        for make in makes:
            with contextlib.suppress(CrishimError):
                make.result()
        await asyncio.to_thread(fragile.start)
        await node.until_back()
        await node.clear()


async def test_strangers_of_a_crash_are_removed(engine: Dockerd, tmp_path: Path) -> None:
    """Containers of ours that no record knows are removed at the next start; those of others are left alone."""
    node = Node(tmp_path, engine.socket)
    async with node.running():
        await node.container(await node.sandbox(), "main", SLEEPS)
    other = Node(tmp_path / "other", engine.socket)
    async with other.running():
        stranger = await other.sandbox()
        forgetful = Node(tmp_path, engine.socket)
        async with forgetful.running():
            await forgetful.clear()
        assert PodSandboxState.READY is await other.ready(stranger)
        assert {stranger} == {seen.id for seen in (await other.backend.inventory()).sandboxes}
        await other.clear()
