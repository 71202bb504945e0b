"""Invalid records, and pods without a record: stored, reported, and never removed silently."""

import attrs

from crishim.interfaces.seats import Records
from crishim.lifecycle.records import Phase
from crishim.model.container import ContainerState
from crishim.model.sandbox import PodSandboxFilter
from crishim.model.values import FrozenDict, SandboxId
from crishim.store.memory import MemoryStore
from crishim.testing import Harness


class Unreadable(MemoryStore):
    """A store some rows of which cannot be read."""

    bad: FrozenDict[str, str] = FrozenDict()

    async def load(self) -> Records:
        records = await super().load()
        return Records(
            sandboxes=tuple(record for record in records.sandboxes if record.id not in self.bad),
            containers=tuple(record for record in records.containers if record.id not in self.bad),
            unreadable=self.bad,
        )


async def test_a_record_that_cannot_be_read() -> None:
    """Its pod is not touched, whatever time passes, and everything else starts; a metric counts it."""
    store = Unreadable()
    world = Harness(store=store)
    async with world:
        bad, good = await world.run_sandbox("bad"), await world.run_sandbox("good")
        inside = await world.run_container(bad)
    store.bad = FrozenDict({bad: "its checksum is wrong"})
    async with world:
        assert [good] == [entry.item.id for entry in await world.services.sandboxes.list(PodSandboxFilter())]
        await world.clock.advance(100_000)
        assert ContainerState.RUNNING is world.fake.containers[inside].state
        assert (2, 0) == (world.services.gauges().set_aside, world.services.gauges().unrecorded)
        assert bad in (await world.services.runtime.status(verbose=True)).info["config"]
    store.bad = FrozenDict()
    async with world:
        assert 2 == len(await world.services.sandboxes.list(PodSandboxFilter()))


async def test_two_records_of_one_name() -> None:
    """The newer one counts; the older is set aside, and its pod is not touched."""
    store = MemoryStore()
    world = Harness(store=store)
    async with world:
        sandbox_id = await world.run_sandbox()
    (record,) = (await store.load()).sandboxes
    older = attrs.evolve(record, id=SandboxId("f" * 64), created_at=record.created_at - 1, phase=Phase.READY)
    await store.put(older)
    async with world:
        assert [sandbox_id] == [entry.item.id for entry in await world.services.sandboxes.list(PodSandboxFilter())]
        assert 1 == world.services.gauges().set_aside
    assert older in (await store.load()).sandboxes


async def test_pods_without_a_record_are_not_removed_at_once() -> None:
    """When the file of records is gone, what runs is reported and counted, and removed after the configured time only."""
    world = Harness()
    world.settings = attrs.evolve(world.settings, remove_unrecorded_after=3600.0)
    async with world:
        container_id = await world.run_container(await world.run_sandbox())
    async with world:
        await world.clock.advance(3599)
        assert ContainerState.RUNNING is world.fake.containers[container_id].state
        assert 1 == world.services.gauges().unrecorded
        await world.clock.advance(2)
        assert ({}, {}) == (world.fake.containers, world.fake.sandboxes)
        assert 0 == world.services.gauges().unrecorded
