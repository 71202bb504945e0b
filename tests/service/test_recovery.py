"""Restarts of the server, engines that disconnect, reboots."""

import asyncio

import attrs
import pytest

from crishim.errors import ResourceExhausted, Unavailable
from crishim.lifecycle.records import Record
from crishim.model.container import ContainerState
from crishim.model.image import ImageDetail, ImageSpec
from crishim.model.process import Exit
from crishim.model.runtime import ContainerEventType
from crishim.model.sandbox import PodSandboxFilter, PodSandboxState
from crishim.model.values import ContainerId
from crishim.store.memory import MemoryStore
from crishim.testing import Harness
from crishim.testing.doubles import settle


async def container_state(world: Harness, container_id: ContainerId) -> tuple[ContainerState, int, str]:
    seen = (await world.services.containers.status(container_id, verbose=False)).status
    return seen.state, seen.exit_code, seen.reason


async def test_restart_loses_nothing() -> None:
    """After a restart running containers run, and exits in the meantime are reported with their codes."""
    world = Harness(store=MemoryStore())
    async with world:
        sandbox_id = await world.run_sandbox()
        running = await world.run_container(sandbox_id, "running")
        ending = await world.run_container(sandbox_id, "ending")
        waiting = await world.create_container(sandbox_id, "waiting")
    world.fake.exits("ending", 4)
    async with world:
        assert (ContainerState.RUNNING, 0, "") == await container_state(world, running)
        assert (ContainerState.EXITED, 4, "Error") == await container_state(world, ending)
        assert (ContainerState.CREATED, 0, "") == await container_state(world, waiting)
        status = (await world.services.sandboxes.status(sandbox_id, verbose=False)).status
        assert (PodSandboxState.READY, ("10.88.0.1",)) == (status.state, status.ips)
        world.fake.exits("running", 5)
        await settle()
        assert (ContainerState.EXITED, 5, "Error") == await container_state(world, running)
        assert sandbox_id == await world.run_sandbox()


async def test_absent_backend_does_not_keep_us_from_starting() -> None:
    """With the engine unavailable the server starts, reports it, shows containers UNKNOWN, and recovers when it is back."""
    world = Harness(store=MemoryStore())
    async with world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
    world.fake.away = "engine is not running"
    async with world:
        condition = (await world.services.runtime.status(verbose=False)).conditions[0]
        assert ("RuntimeReady", False, "default: engine is not running") == (
            condition.type,
            condition.status,
            condition.message,
        )
        assert ContainerState.UNKNOWN is (await container_state(world, container_id))[0]
        with pytest.raises(Unavailable, match="engine is not running"):
            await world.run_sandbox("other")
        world.fake.away = ""
        await world.clock.advance(60)
        assert (await world.services.runtime.status(verbose=False)).conditions[0].status
        assert ContainerState.RUNNING is (await container_state(world, container_id))[0]
        assert await world.run_sandbox("other")


async def test_lost_backend_is_reconciled_when_it_is_back() -> None:
    """An engine that disconnects and reconnects is asked for its inventory; exits in the meantime are recorded."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
        await settle()
        world.fake.away = "restarting"
        with pytest.raises(Unavailable):
            await world.services.containers.stop(container_id, 0)
        world.fake.containers[container_id].end(Exit(code=6))
        await settle()
        assert ContainerState.UNKNOWN is (await container_state(world, container_id))[0]
        world.fake.away = ""
        await world.clock.advance(60)
        assert (ContainerState.EXITED, 6, "Error") == await container_state(world, container_id)


async def test_a_lost_container_is_found_again_during_a_call() -> None:
    """A call that holds the pod's lock for long does not keep a container from being waited for again."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
        await settle()
        world.fake.away = "restarting"
        with pytest.raises(Unavailable):
            await world.services.containers.stop(container_id, 0)
        async with world.services._core.table.sandboxes[sandbox_id].operations.lock:
            world.fake.away = ""
            await world.clock.advance(60)
            assert ContainerState.RUNNING is (await container_state(world, container_id))[0]
        world.fake.containers[container_id].end(Exit(code=6))
        await settle()
        assert (ContainerState.EXITED, 6, "Error") == await container_state(world, container_id)


async def test_repairs_do_not_overrule_later_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client starts while repairs are still carried out is not shown as the inventory had it before."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        first = await world.create_container(sandbox_id, "first")
        second = await world.create_container(sandbox_id, "second")
        world.fake.away = "restarting"
        with pytest.raises(Unavailable):
            await world.services.containers.remove(first)
        real, go = world.fake.remove_container, asyncio.Event()

        async def slow(container_id: ContainerId) -> None:
            await go.wait()
            await real(container_id)

        monkeypatch.setattr(world.fake, "remove_container", slow)
        world.fake.away = ""
        await world.clock.advance(60)
        await world.services.containers.start(second)
        go.set()
        await settle()
        assert [second] == list(world.fake.containers)
        assert (ContainerState.RUNNING, 0, "") == await container_state(world, second)


async def test_creation_beside_it_does_not_hide_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container is recovered also while another one of its sandbox is being created."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
        real, go = world.images.status, asyncio.Event()

        async def slow(image: ImageSpec) -> ImageDetail | None:
            await go.wait()
            return await real(image)

        monkeypatch.setattr(world.images, "status", slow)
        sibling = asyncio.ensure_future(world.create_container(sandbox_id, "sibling"))
        await settle()
        world.fake.away = "restarting"
        with pytest.raises(Unavailable):
            await world.services.containers.stop(container_id, 0)
        world.fake.containers[container_id].end(Exit(code=6))
        await settle()
        world.fake.away = ""
        await world.clock.advance(60)
        assert (ContainerState.EXITED, 6, "Error") == await container_state(world, container_id)
        go.set()
        assert (ContainerState.CREATED, 0, "") == await container_state(world, await sibling)


async def test_reboot_believes_nothing_to_run() -> None:
    """After a reboot no recorded container runs, addresses are freed without a namespace, and recorded exits stay."""
    world = Harness(store=MemoryStore())
    async with world:
        sandbox_id = await world.run_sandbox()
        running = await world.run_container(sandbox_id, "running")
        ended = await world.run_container(sandbox_id, "ended")
        world.fake.exits("ended", 3)
        await settle()
    world.fake.sandboxes.clear()
    world.fake.containers.clear()
    world.namespaces.paths.clear()
    world.settings = attrs.evolve(world.settings, boot_id="boot-2")
    async with world:
        status = (await world.services.sandboxes.status(sandbox_id, verbose=False)).status
        assert (PodSandboxState.NOTREADY, ()) == (status.state, status.ips)
        assert {} == world.network.addresses
        assert (ContainerState.EXITED, 255, "Unknown") == await container_state(world, running)
        assert (ContainerState.EXITED, 3, "Error") == await container_state(world, ended)
        await world.services.sandboxes.remove(sandbox_id)


async def test_leftovers_of_ours_are_removed() -> None:
    """What the backend holds with our mark and no record knows is killed and removed."""
    world = Harness()
    async with world:
        sandbox_id = await world.run_sandbox()
        await world.run_container(sandbox_id, "main", "stubborn")
    async with world:
        assert ({}, {}) == (world.fake.containers, world.fake.sandboxes)


async def test_lost_backend_fails_calls_at_once() -> None:
    """A lost backend fails new calls at once; what could not be undone is removed when it is back."""
    async with Harness() as world:
        world.fake.away = "gone"
        for name in ("one", "two"):
            with pytest.raises(Unavailable):
                await world.run_sandbox(name)
        (incomplete,) = await world.services.sandboxes.list(PodSandboxFilter())
        assert PodSandboxState.NOTREADY is incomplete.item.state
        world.fake.away = ""
        await world.clock.advance(60)
        assert [] == list(await world.services.sandboxes.list(PodSandboxFilter()))
        assert ({}, {}) == (world.network.addresses, world.namespaces.paths)


async def test_full_disk_does_not_prevent_a_pod_from_ending() -> None:
    """A store that takes nothing keeps no pod from being stopped and removed; it is written to with the next success."""
    store = MemoryStore()
    full = asyncio.Event()

    async def refuse(*_: object) -> None:
        if full.is_set():
            raise ResourceExhausted("no space left on device")

    class Small(MemoryStore):
        async def put(self, record: Record) -> None:
            await refuse()
            await store.put(record)

        async def delete(self, id: str) -> None:  # noqa: A002 - the contract's name
            await refuse()
            await store.delete(id)

    async with Harness(store=Small()) as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
        other = await world.run_sandbox("other")
        full.set()
        world.fake.exits("main", 3)
        await settle()
        assert (ContainerState.EXITED, 3, "Error") == await container_state(world, container_id)
        with pytest.raises(ResourceExhausted):
            await world.run_sandbox("new")
        await world.services.sandboxes.stop(sandbox_id)
        await world.services.sandboxes.remove(sandbox_id)
        assert [other] == list(world.fake.sandboxes)
        full.clear()
        await world.run_sandbox("newer")
        stored = await store.load()
        assert {"other", "newer"} == {record.config.metadata.name for record in stored.sandboxes}
        assert () == stored.containers


async def test_a_sandbox_that_ended_while_its_backend_was_away() -> None:
    """A sandbox that has ended meanwhile is NOTREADY once its backend is back, and an event says so, once."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        await settle()
        events = world.services.events.subscribe()
        first = asyncio.ensure_future(anext(events))
        world.fake.away = "gone"
        with pytest.raises(Unavailable):
            await world.create_container(sandbox_id)
        world.fake.away = ""
        world.fake.die(sandbox_id)
        await world.clock.advance(60)
        await settle()
        assert (sandbox_id, ContainerEventType.STOPPED) == ((event := await first).container_id, event.type)
        status = (await world.services.sandboxes.status(sandbox_id, verbose=False)).status
        assert PodSandboxState.NOTREADY is status.state
