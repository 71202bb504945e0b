"""Die before and after every effect of a pod's life, recover, die again at every effect of the recovery, recover.

An effect is a call that changes the world: of the store, the backend, the network, the namespaces. A dead process changes
nothing more; the world lives on. After the last recovery records and world must agree, and once the client has removed
what is listed (as the kubelet does), nothing at all may be left: no sandbox, container, network, namespace, name or record.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest

from crishim.errors import CrishimError
from crishim.interfaces.capabilities import capabilities
from crishim.interfaces.seats import Records
from crishim.lifecycle.records import Phase
from crishim.model.container import ContainerFilter, ContainerState
from crishim.model.sandbox import PodSandboxFilter, PodSandboxState
from crishim.service.backends import Settings
from crishim.service.services import Services
from crishim.store.memory import MemoryStore
from crishim.testing import FakeBackend, FakeClock, FakeIds, FakeImages, FakeNamespaces, FakeNetwork
from crishim.testing.doubles import settle
from crishim.testing.harness import IMAGE, container_config, sandbox_config

EFFECTS = {
    "backend": {
        "start_sandbox",
        "stop_sandbox",
        "remove_sandbox",
        "create_container",
        "start_container",
        "kill_container",
        "remove_container",
    },
    "network": {"set_up", "tear_down"},
    "namespaces": {"create", "remove"},
    "store": {"put", "delete"},
}


class World:
    """What outlives a process of ours."""

    def __init__(self) -> None:
        self.backend = FakeBackend(logs_to_disk=False)
        self.network = FakeNetwork()
        self.namespaces = FakeNamespaces()
        self.store = MemoryStore()
        self.images = FakeImages()
        self.images.add(IMAGE)
        self.ids = FakeIds()
        self.clock = FakeClock()
        self.boot = 1

    def reboot(self) -> None:
        """Everything that ran is gone, and so are the namespaces; addresses and records are on disk."""
        self.boot += 1
        self.backend.sandboxes.clear()
        for container in self.backend.containers.values():
            container.ended.set()
        self.backend.containers.clear()
        self.namespaces.paths.clear()

    async def records(self) -> Records:
        return await self.store.load()


class NodeRun:
    """One process of ours: it dies before or after its nth effect."""

    def __init__(self, world: World, die_at: int | None = None) -> None:
        self.world = world
        self.moments = 0
        self.dead = asyncio.Event()
        self.buried = False
        self._die_at = die_at
        self.services = Services(
            backends={"": self._mortal(world.backend, "backend")},
            network=self._mortal(world.network, "network"),
            namespaces=self._mortal(world.namespaces, "namespaces"),
            store=self._mortal(world.store, "store"),
            images=world.images,
            ids=world.ids,
            clock=world.clock,
            settings=Settings(runtime_version="1.0.0", boot_id=f"boot-{world.boot}"),
        )

    async def live(self, script: Callable[[Services], Awaitable[None]]) -> bool:
        """Start, recover, run the script; whether it was survived."""
        work = asyncio.ensure_future(self._live(script))
        death = asyncio.ensure_future(self.dead.wait())
        await asyncio.wait({work, death}, return_when=asyncio.FIRST_COMPLETED)
        survived = not self.dead.is_set()
        if survived:
            await work
        work.cancel()
        death.cancel()
        await asyncio.gather(work, death, return_exceptions=True)
        self.buried = True
        await self.services.__aexit__(None, None, None)
        return survived

    async def _live(self, script: Callable[[Services], Awaitable[None]]) -> None:
        await self.services.__aenter__()
        await script(self.services)

    async def moment(self) -> None:
        """A moment at which death may come. The dead do nothing for ever."""
        self.moments += 1
        if self.moments == self._die_at:
            self.dead.set()
        if self.dead.is_set():
            if self.buried:
                raise asyncio.CancelledError
            await asyncio.Event().wait()

    def _mortal(self, inner: Any, kind: str) -> Any:
        return Mortal(self, inner, EFFECTS[kind])


class Mortal:
    def __init__(self, run: NodeRun, inner: Any, effects: set[str]) -> None:
        self._run = run
        self._inner = inner
        self._effects = effects
        self.capabilities = capabilities(inner)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if name not in self._effects:
            return real

        async def effect(*args: Any) -> Any:
            await self._run.moment()
            result = await real(*args)
            await self._run.moment()
            return result

        return effect


async def pod_life(services: Services) -> None:
    """One pod of two containers, from its making to its removal."""
    sandbox_id = await services.sandboxes.run(sandbox_config(), "")
    first = await services.containers.create(sandbox_id, container_config("first", "sleep"), None)
    await services.containers.start(first)
    second = await services.containers.create(sandbox_id, container_config("second", "sleep"), None)
    await services.containers.start(second)
    await services.containers.stop(first, 0)
    await services.sandboxes.stop(sandbox_id)
    await services.containers.remove(first)
    await services.sandboxes.remove(sandbox_id)


async def nothing(services: Services) -> None:
    await settle()


async def remove_all(services: Services) -> None:
    """What the kubelet does with a pod that it no longer wants."""
    for item in await services.sandboxes.list(PodSandboxFilter()):
        await services.sandboxes.stop(item.item.id)
        await services.sandboxes.remove(item.item.id)


async def assert_agreement(world: World, services: Services) -> None:
    records = await world.records()
    sandboxes = {entry.item.id: entry.item.state for entry in await services.sandboxes.list(PodSandboxFilter())}
    containers = {entry.item.id: entry.item.state for entry in await services.containers.list(ContainerFilter())}
    assert {record.id for record in records.sandboxes} == sandboxes.keys()
    assert {record.id for record in records.containers} == containers.keys()
    assert world.backend.sandboxes.keys() <= sandboxes.keys()
    assert world.backend.containers.keys() <= containers.keys()
    ready = {sandbox_id for sandbox_id, state in sandboxes.items() if state is PodSandboxState.READY}
    assert ready == {existing.spec.id for existing in world.backend.sandboxes.values() if existing.ready}
    assert world.network.addresses.keys() <= ready
    assert world.namespaces.paths.keys() <= ready
    running = {container_id for container_id, state in containers.items() if state is ContainerState.RUNNING}
    existing = world.backend.containers.values()
    assert running == {container.spec.id for container in existing if container.state is ContainerState.RUNNING}
    assert not [record for record in records.sandboxes if record.phase in {Phase.CREATING, Phase.REMOVING}]
    assert not [record for record in records.containers if record.phase is not Phase.READY]


def assert_empty(world: World, records: Records) -> None:
    left = (world.backend.sandboxes, world.backend.containers, world.network.addresses, world.namespaces.paths)
    assert ({}, {}, {}, {}) == left
    assert Records() == records


@attrs.define
class Tally:
    histories: int = 0


async def explore(reboots: bool) -> int:
    """Every history of one death in the life and at most one in the recovery; answers how many there were."""
    tally = 0
    first = 0
    while True:
        first += 1
        second = 0
        while True:
            second += 1
            world = World()
            survived = await NodeRun(world, first).live(pod_life)
            if survived:
                return tally
            if reboots:
                world.reboot()
            recovered = await NodeRun(world, second).live(nothing)
            tally += 1
            last = NodeRun(world)
            try:
                await last.live(lambda services, world=world: check(world, services))  # type: ignore[misc]
            except (AssertionError, CrishimError) as error:
                raise AssertionError(f"death at moment {first}, in the recovery at {second}: {error}") from error
            assert_empty(world, await world.records())
            if recovered:
                break


async def check(world: World, services: Services) -> None:
    await settle()
    await assert_agreement(world, services)
    await remove_all(services)


@pytest.mark.parametrize("reboots", [False, True], ids=["restart", "reboot"])
async def test_every_crash_point(reboots: bool, record_property: Any, capsys: Any) -> None:
    """Whenever we die, and die again while recovering, the next start makes records and world agree and leaks nothing."""
    histories = await explore(reboots)
    record_property("histories", histories)
    with capsys.disabled():
        kind = "reboot" if reboots else "restart"
        print(f"\ncrash points ({kind}): {histories} histories, all consistent")  # noqa: T201 - the count is the result
    assert histories > 100


async def test_exploration_finds_a_missing_record() -> None:
    """The exploration fails when the record is not written before the act: it would find the leak."""

    class Forgetful(MemoryStore):
        async def put(self, record: Any) -> None:
            if record.phase is not Phase.CREATING:
                await super().put(record)

    leaks = 0
    for moment in range(1, 12):
        world = World()
        world.store = Forgetful()
        await NodeRun(world, moment).live(pod_life)
        await NodeRun(world).live(nothing)
        leaks += bool(world.network.addresses)
    assert leaks > 0
