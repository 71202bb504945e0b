"""A fault affects the smallest possible part: a container, a pod, a handler; everything else continues."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest

from crishim.config import Deadlines
from crishim.errors import (
    AlreadyExists,
    CrishimError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from crishim.interfaces.backend import BackendInfo
from crishim.interfaces.capabilities import ProcessIO
from crishim.model.container import ContainerState, Inventory
from crishim.model.process import ExecSpec, Exit
from crishim.model.resources import Resources
from crishim.model.runtime import RuntimeStatus
from crishim.model.sandbox import PodSandboxFilter, PodSandboxState
from crishim.model.stats import ContainerStatsFilter, ContainerUsage, PodSandboxStatsFilter
from crishim.model.values import EMPTY, ContainerId, SandboxId
from crishim.service.services import Services
from crishim.store.memory import MemoryStore
from crishim.system import SystemClock
from crishim.testing import Harness
from crishim.testing.doubles import settle
from crishim.testing.fakes import FakeBackend, FakeNetwork
from crishim.testing.faults import failing
from crishim.testing.harness import sandbox_config


def ready(status: RuntimeStatus) -> bool:
    return next(condition.status for condition in status.conditions if condition.type == "RuntimeReady")


async def state_of(services: Services, container_id: ContainerId) -> ContainerState:
    return (await services.containers.status(container_id, verbose=False)).status.state


class DeadMonitor(FakeBackend):
    """The monitor of some containers is dead: what needs it cannot be done."""

    def __init__(self) -> None:
        super().__init__(logs_to_disk=False)
        self.dead: set[str] = set()

    async def reopen_log(self, container_id: ContainerId) -> None:
        if container_id in self.dead:
            raise Unavailable("the container's monitor has died")
        await super().reopen_log(container_id)

    async def wait_container(self, container_id: ContainerId) -> Exit:
        if container_id in self.dead:
            raise Unavailable("the container's monitor has died")
        return await super().wait_container(container_id)


async def test_a_verb_that_cannot_be_done_for_one_container() -> None:
    """The refusal is that container's alone: the runtime stays ready, and other pods are run, stopped and removed."""
    backend = DeadMonitor()
    async with Harness(backend) as world:
        one = await world.run_container(await world.run_sandbox("one"))
        other_pod = await world.run_sandbox("other")
        other = await world.run_container(other_pod)
        backend.dead.add(one)
        with pytest.raises(Unavailable):
            await world.services.containers.reopen_log(one)
        assert ready(await world.services.runtime.status(verbose=False))
        await world.services.containers.reopen_log(other)
        await world.services.containers.stop(other, 0)
        await world.services.sandboxes.remove(other_pod)
        await world.run_sandbox("third")


async def test_a_probe_that_fails_makes_the_backend_lost() -> None:
    """Where the probe after an Unavailable fails, too, the node is not ready until the backend answers again."""
    async with Harness() as world:
        container_id = await world.run_container(await world.run_sandbox())
        world.fake.away = "gone"
        with pytest.raises(Unavailable):
            await world.services.containers.reopen_log(container_id)
        assert not ready(await world.services.runtime.status(verbose=False))
        world.fake.away = ""
        await world.clock.advance(60)
        assert ready(await world.services.runtime.status(verbose=False))


async def test_a_wait_that_cannot_be_done_for_one_container() -> None:
    """Its container is UNKNOWN and waited for again; it is shown running when a wait lasts, and its exit is its own."""
    backend = DeadMonitor()
    async with Harness(backend, store=MemoryStore()) as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.create_container(sandbox_id)
        backend.dead.add(container_id)
        await world.services.containers.start(container_id)
        await settle()
        assert ContainerState.UNKNOWN is await state_of(world.services, container_id)
        backend.dead.clear()
        await world.clock.advance(10)
        assert ContainerState.RUNNING is await state_of(world.services, container_id)
        backend.containers[container_id].end(Exit(code=3))
        await settle()
        status = (await world.services.containers.status(container_id, verbose=False)).status
        assert (ContainerState.EXITED, 3) == (status.state, status.exit_code)


async def test_a_recovery_cuts_the_pause_of_a_wait_short() -> None:
    """A wait that has failed pauses for up to half a minute; a recovery meanwhile has it begin at once."""
    backend = DeadMonitor()
    async with Harness(backend) as world:
        container_id = await world.create_container(await world.run_sandbox())
        backend.dead.add(container_id)
        await world.services.containers.start(container_id)
        for _ in range(6):
            await world.clock.advance(10)
        backend.dead.clear()
        (handle,) = world.services._core.backends.handles
        await world.services.recovery.recover(handle)
        backend.containers[container_id].end(Exit(code=3))
        await settle()
        assert ContainerState.EXITED is await state_of(world.services, container_id)


async def test_leftovers_are_named_and_counted() -> None:
    """What a backend could not free of a pod stands in the verbose info by its id, and the pod is counted."""

    class Leaves(FakeBackend):
        def leftovers(self) -> Mapping[SandboxId, Sequence[str]]:
            return {SandboxId("gone"): ("process 7",)}

    async with Harness(Leaves(logs_to_disk=False)) as world:
        info = json.loads((await world.services.runtime.status(verbose=True)).info["config"])
        assert ({"gone": ["process 7"]}, 1) == (info["leftovers"], world.services.gauges().leftovers)


async def test_an_optional_handler_that_is_away() -> None:
    """The default handler's backend, and those that hold pods, count for RuntimeReady; others are named in the verbose info."""
    optional = FakeBackend(logs_to_disk=False)
    optional.away = "runsc is missing"
    world = Harness()
    async with world.make(backends={"": world.fake, "gvisor": optional}) as services:
        status = await services.runtime.status(verbose=True)
        assert (True, True) == (ready(status), "runsc is missing" in status.info["config"])
        assert {"", "gvisor"} == {handler.name for handler in status.handlers}


async def test_a_stop_over_a_start_that_another_stop_has_cancelled() -> None:
    """However many stops come while a start is undone, what CRI shows is what runs: nothing."""

    class SlowStart(FakeBackend):
        running = asyncio.Event()

        async def start_container(self, container_id: ContainerId) -> None:
            await super().start_container(container_id)
            self.running.set()
            await asyncio.sleep(3600)

        async def kill_container(self, container_id: ContainerId, signal: int) -> None:
            await asyncio.sleep(0.05)
            await super().kill_container(container_id, signal)

    backend = SlowStart(logs_to_disk=False)
    async with Harness(backend, clock=SystemClock()) as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.create_container(sandbox_id)
        start = asyncio.create_task(world.services.containers.start(container_id))
        await backend.running.wait()
        stops: list[asyncio.Task[None]] = []
        for _ in range(3):
            stops.append(asyncio.create_task(world.services.containers.stop(container_id, 30)))
            await asyncio.sleep(0.01)
        await asyncio.gather(start, *stops, world.services.sandboxes.stop(sandbox_id), return_exceptions=True)
        shown = await state_of(world.services, container_id)
        assert (ContainerState.EXITED, ContainerState.EXITED) == (shown, backend.containers[container_id].state)


class HangingNetwork(FakeNetwork):
    """Its plugins never answer a DEL."""

    async def tear_down(self, spec: Any) -> None:
        await asyncio.Event().wait()


async def test_old_pods_that_cannot_be_torn_down_delay_no_call() -> None:
    """After a reboot with ten networks that hang, the runtime serves at once, and new pods run."""
    store = MemoryStore()
    world = Harness(store=store)
    async with world:
        for number in range(10):
            await world.run_sandbox(f"pod{number}")
    world.fake.sandboxes.clear()
    world.namespaces.paths.clear()
    settings = attrs.evolve(world.settings, boot_id="boot-2")
    async with asyncio.timeout(5), world.make(network=HangingNetwork(), settings=settings) as services:
        states = [entry.item.state for entry in await services.sandboxes.list(PodSandboxFilter())]
        assert [PodSandboxState.NOTREADY] * 10 == states
        assert ready(await services.runtime.status(verbose=False))


async def test_a_network_that_cannot_be_torn_down() -> None:
    """The stop fails and can be repeated; meanwhile the sandbox is not ready and has no address (rpc.md 3, StopPodSandbox)."""
    network = FakeNetwork()
    async with Harness(network=failing(network, "tear_down", at=1)) as world:
        sandbox_id = await world.run_sandbox()
        with pytest.raises(Unknown):
            await world.services.sandboxes.stop(sandbox_id)
        status = (await world.services.sandboxes.status(sandbox_id, verbose=False)).status
        assert (PodSandboxState.NOTREADY, ()) == (status.state, status.ips)
        await world.services.sandboxes.stop(sandbox_id)
        assert {} == network.addresses


async def test_a_container_that_cannot_be_killed_ends_with_its_sandbox() -> None:
    """If a kill hangs, as in a virtual machine that does not respond, the stop continues with the sandbox, which ends it."""

    class Hung(FakeBackend):
        async def kill_container(self, container_id: ContainerId, signal: int) -> None:
            await asyncio.Event().wait()

        async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
            for container in self.containers.values():
                container.end(Exit(code=137))
            await super().stop_sandbox(sandbox_id)

    world = Harness(Hung(logs_to_disk=False), clock=SystemClock())
    deadlines = Deadlines(kill_container=0.05, cancel_grace=1.0, exit_after_kill=0.05)
    world.settings = attrs.evolve(world.settings, deadlines=deadlines)
    async with world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
        await world.services.sandboxes.stop(sandbox_id)
        assert ContainerState.EXITED is await state_of(world.services, container_id)


async def test_usage_that_hangs_is_left_out_of_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """One container whose usage does not come in time is missing from the list; the others are in it."""
    monkeypatch.setattr("crishim.service.stats._LIST_DEADLINE", 0.05)

    class Hung(FakeBackend):
        hung: ContainerId | None = None

        async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
            if container_id == self.hung:
                await asyncio.Event().wait()
            return await super().container_usage(container_id)

    backend = Hung(logs_to_disk=False)
    async with Harness(backend) as world:
        sandbox_id = await world.run_sandbox()
        backend.hung = await world.run_container(sandbox_id, "hung")
        other = await world.run_container(sandbox_id, "other")
        assert [other] == [stats.id for stats in await world.services.stats.containers(ContainerStatsFilter())]


async def test_a_slow_probe_holds_up_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose usage is Unavailable is missing from the list, which does not wait for the probe that follows."""
    monkeypatch.setattr("crishim.service.stats._LIST_DEADLINE", 0.05)

    class Hung(FakeBackend):
        gone: ContainerId | None = None

        async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
            if container_id == self.gone:
                raise Unavailable("no answer")
            return await super().container_usage(container_id)

        async def probe(self) -> BackendInfo:
            if self.gone is not None:
                await asyncio.Event().wait()
            return await super().probe()

    backend = Hung(logs_to_disk=False)
    async with Harness(backend) as world:
        sandbox_id = await world.run_sandbox()
        gone = await world.run_container(sandbox_id, "gone")
        other = await world.run_container(sandbox_id, "other")
        backend.gone = gone
        listing = asyncio.create_task(world.services.stats.containers(ContainerStatsFilter()))
        await asyncio.wait({listing}, timeout=5)
        assert [other] == [stats.id for stats in listing.result()]


async def test_ids_are_taken_by_prefix() -> None:
    """A unique prefix is taken wherever an id is; an ambiguous one is refused with the candidates; stop takes it, too."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        one = await world.run_container(sandbox_id, "one")
        two = await world.run_container(sandbox_id, "two")
        services = world.services
        short = ContainerId(one[:-1])  # the fake's ids differ in their last character only
        with pytest.raises(InvalidArgument, match=f"ambiguous: {one}, {two}"):
            await services.containers.status(short, verbose=False)
        await services.containers.remove(two)
        assert one == (await services.containers.status(short, verbose=False)).status.id
        assert 0 == (await services.streams.exec_sync(short, ("true",), 0)).exit_code
        assert 0 == (await services.streams.run_exec(short, ExecSpec(argv=("true",)), ProcessIO())).code
        assert one == (await services.stats.container(short)).id
        await services.containers.stop(short, 0)
        assert ContainerState.EXITED is await state_of(services, one)
        await services.sandboxes.stop(SandboxId(sandbox_id[:13]))
        status = (await services.sandboxes.status(SandboxId(sandbox_id[:13]), verbose=False)).status
        assert (sandbox_id, PodSandboxState.NOTREADY) == (status.id, status.state)
        with pytest.raises(NotFound):
            await services.sandboxes.status(SandboxId("f"), verbose=False)
        await services.sandboxes.remove(SandboxId(sandbox_id[:13]))
        assert {} == world.fake.sandboxes


async def test_a_handler_that_has_another_backend_now() -> None:
    """Objects of one backend are not another's: they are UNKNOWN, and refused with both names, until their own is back."""

    class Other(FakeBackend):
        async def probe(self) -> BackendInfo:
            return attrs.evolve(await super().probe(), name="other")

    store = MemoryStore()
    world = Harness(store=store)
    async with world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
    async with world.make(backends={"": Other(logs_to_disk=False)}) as services:
        assert ContainerState.UNKNOWN is await state_of(services, container_id)
        for refused in (services.containers.stop(container_id, 0), services.sandboxes.remove(sandbox_id)):
            with pytest.raises(Unavailable, match=r"'fake'.*'other'"):
                await refused
        assert [] == await services.stats.containers(ContainerStatsFilter())
    assert ContainerState.RUNNING is world.fake.containers[container_id].state
    async with world:
        assert ContainerState.RUNNING is await state_of(world.services, container_id)


async def test_a_handler_that_is_configured_no_more() -> None:
    """Its pods are refused by name and not touched, although their backend serves other handlers."""
    store = MemoryStore()
    backend = FakeBackend(logs_to_disk=False)
    world = Harness(backend, store=store)
    async with world.make(backends={"": backend, "old": backend}) as services:
        old = await services.sandboxes.run(sandbox_config("old"), "old")
        other = await services.sandboxes.run(sandbox_config("other"), "")
    async with world.make(backends={"": backend}) as services:
        await services.recovered()
        await settle()
        assert {old, other} == set(backend.sandboxes)
        assert 1 == len(await services.stats.sandboxes(PodSandboxStatsFilter()))
        with pytest.raises(Unavailable, match="old"):
            await services.sandboxes.remove(old)


@pytest.mark.parametrize("refusal", [Unavailable("the shim is gone"), DeadlineExceeded("kill")])
async def test_a_failed_start_that_cannot_be_cleaned_up(refusal: CrishimError) -> None:
    """A container that may be running is UNKNOWN and not EXITED: a stop kills it (rpc.md, StartContainer)."""
    inner = FakeBackend(logs_to_disk=False)
    backend = failing(
        failing(inner, "start_container", error=Unknown("cut off"), after=True), "kill_container", at=1, error=refusal
    )
    world = Harness(backend)
    world.fake = inner
    async with world:
        container_id = await world.create_container(await world.run_sandbox())
        with pytest.raises(Unknown):
            await world.services.containers.start(container_id)
        await settle()
        assert ContainerState.EXITED is not await state_of(world.services, container_id)
        await world.services.containers.stop(container_id, 0)
        assert ContainerState.EXITED is inner.containers[container_id].state


async def test_a_creation_that_cannot_be_undone_is_no_container() -> None:
    """The kubelet's retry does not get the id of a sandbox that was never created."""
    inner = FakeBackend(logs_to_disk=False)
    broken = failing(failing(inner, "create_container", at=1, error=Unknown("cut off")), "remove_container", at=1)
    world = Harness(broken)
    world.fake = inner
    async with world:
        sandbox_id = await world.run_sandbox()
        with pytest.raises(Unknown):
            await world.create_container(sandbox_id)
        with pytest.raises(AlreadyExists):
            await world.create_container(sandbox_id)


async def test_a_change_of_limits_that_fails() -> None:
    """A failed change that was partly applied is undone, and shown so (rpc.md 5, UpdateContainerResources)."""

    class Half(FakeBackend):
        broken = True

        async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
            await super().update_container(container_id, resources)
            if self.broken:
                self.broken = False
                raise Unknown("no room for this limit")

    backend = Half(logs_to_disk=False)
    async with Harness(backend) as world:
        container_id = await world.run_container(await world.run_sandbox())
        before = backend.containers[container_id].resources
        with pytest.raises(Unknown):
            await world.services.containers.update_resources(container_id, Resources(cpu_shares=99), EMPTY)
        assert before == backend.containers[container_id].resources


async def test_a_change_of_limits_that_cannot_be_written() -> None:
    """A full disk refuses the change: the container has its former limits, and the status shows them."""
    store = MemoryStore()
    async with Harness(store=store) as world:
        container_id = await world.run_container(await world.run_sandbox())
        before = world.fake.containers[container_id].resources
        store.put = failing(store, "put", at=1, error=ResourceExhausted("full")).put  # type: ignore[method-assign]
        with pytest.raises(ResourceExhausted):
            await world.services.containers.update_resources(container_id, Resources(cpu_shares=99), EMPTY)
        shown = (await world.services.containers.status(container_id, verbose=False)).status.resources
        assert (before, before) == (world.fake.containers[container_id].resources, shown)


async def test_a_container_of_which_its_backend_cannot_say_whether_it_runs() -> None:
    """An inventory with UNKNOWN: the container is waited for, never shown as CREATED, and a stop kills it."""

    class Unsure(FakeBackend):
        async def inventory(self) -> Inventory:
            inventory = await super().inventory()
            containers = tuple(attrs.evolve(one, state=ContainerState.UNKNOWN) for one in inventory.containers)
            return attrs.evolve(inventory, containers=containers)

    backend, store = Unsure(logs_to_disk=False), MemoryStore()
    world = Harness(backend, store=store)
    async with world:
        container_id = await world.run_container(await world.run_sandbox())
    async with world.make() as services:
        await services.recovered()
        assert ContainerState.RUNNING is await state_of(services, container_id)
        await services.containers.stop(container_id, 0)
        assert ContainerState.EXITED is backend.containers[container_id].state


async def test_an_exit_while_no_server_ran() -> None:
    """Its start is the one that the backend knows, else its creation: never the epoch."""
    world = Harness(store=MemoryStore())
    async with world:
        sandbox_id = await world.run_sandbox()
        seen, gone = [await world.run_container(sandbox_id, name) for name in ("seen", "gone")]
    world.fake.containers[seen].end(Exit(code=0))
    del world.fake.containers[gone]
    async with world:
        statuses = [(await world.services.containers.status(name, verbose=False)).status for name in (seen, gone)]
        expected = [world.fake.containers[seen].started_at, statuses[1].created_at]
        assert expected == [status.started_at for status in statuses]


async def test_statuses_are_listed_newest_first() -> None:
    """Of two containers of one name the kubelet takes the first that PodSandboxStatus lists (rpc.md 3, evented PLEG)."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        created = []
        for attempt in range(3):
            created.append(await world.run_container(sandbox_id, f"main{attempt}"))
            await world.clock.advance(1)
        detail = await world.services.sandboxes.status(sandbox_id, verbose=False)
        assert created[::-1] == [status.id for status in detail.containers_statuses]
