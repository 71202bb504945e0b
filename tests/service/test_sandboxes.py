"""Sandboxes: joining, refusals, orders, undo."""

import asyncio

import attrs
import pytest

from crishim.config import Deadlines
from crishim.errors import Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, Unknown
from crishim.interfaces.backend import NetnsSource
from crishim.model.features import Feature
from crishim.model.resources import Resources
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxFilter, PodSandboxState
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.testing import FakeBackend, Harness, failing, hanging
from crishim.testing.doubles import settle
from crishim.testing.harness import sandbox_config

HOST = LinuxPodSandboxConfig(
    security_context=LinuxSandboxSecurityContext(namespace_options=NamespaceOption(network=NamespaceMode.NODE))
)


def nothing_left(world: Harness) -> bool:
    return not (world.fake.sandboxes or world.fake.containers or world.network.addresses or world.namespaces.paths)


async def test_fifty_identical_requests_make_one_sandbox() -> None:
    """Parallel RunPodSandbox calls for one name join the first one's work and get its id (rpc.md 4, RunPodSandbox)."""
    async with Harness() as world:
        ids = await asyncio.gather(*(world.run_sandbox() for _ in range(50)))
        assert 1 == len(set(ids))
        assert ["start_sandbox"] == [verb for verb in world.fake.verbs() if verb == "start_sandbox"]
        assert ids[0] == await world.run_sandbox()


async def test_cancelled_client_leaves_the_work() -> None:
    """A client's deadline cancels its waiting, never the work; its retry finds the early success."""
    async with Harness() as world:
        first = asyncio.ensure_future(world.run_sandbox())
        await asyncio.sleep(0)
        first.cancel()
        sandbox_id = await world.run_sandbox()
        assert first.cancelled()
        assert [sandbox_id] == list(world.fake.sandboxes)


async def test_same_name_for_another_wish_is_taken() -> None:
    """A name is unique until the removal: another configuration under it is AlreadyExists, also when the first was stopped."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        with pytest.raises(AlreadyExists):
            await world.run_sandbox(hostname="other")
        await world.services.sandboxes.stop(sandbox_id)
        with pytest.raises(AlreadyExists):
            await world.run_sandbox()
        await world.services.sandboxes.remove(sandbox_id)
        assert sandbox_id != await world.run_sandbox()


async def test_unknown_handler_is_rejected() -> None:
    """An unknown runtime handler must be rejected (CRI, RunPodSandboxRequest.runtime_handler)."""
    async with Harness() as world:
        with pytest.raises(InvalidArgument, match="runtime_handler"):
            await world.services.sandboxes.run(sandbox_config(), "nobody")


async def test_failed_start_is_undone() -> None:
    """Resources created before a failure are freed, and the name is free again."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(failing(fake, "start_sandbox", at=1))
    world.fake = fake
    async with world:
        with pytest.raises(Unknown, match="injected fault"):
            await world.run_sandbox()
        assert nothing_left(world)
        assert await world.run_sandbox()


async def test_failed_undo_is_listed_until_removed() -> None:
    """Where the undo fails too, the sandbox is listed NOTREADY, so that the client can remove it."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(failing(failing(fake, "start_sandbox", after=True), "stop_sandbox", at=1))
    world.fake = fake
    async with world:
        with pytest.raises(Unknown):
            await world.run_sandbox()
        (listed,) = await world.services.sandboxes.list(PodSandboxFilter())
        assert PodSandboxState.NOTREADY is listed.item.state
        await world.services.sandboxes.remove(listed.item.id)
        assert nothing_left(world)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_hung_verb_ends_at_its_deadline(stubborn: bool) -> None:
    """A verb that never returns ends with DeadlineExceeded and leaves nothing, even if it does not heed cancellation."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(hanging(fake, "start_sandbox", stubborn=stubborn))
    world.fake = fake
    world.settings = attrs.evolve(world.settings, deadlines=Deadlines(start_sandbox=0.05, cancel_grace=0.05))
    async with world:
        with pytest.raises(DeadlineExceeded, match="start_sandbox"):
            await world.run_sandbox()
        assert nothing_left(world)


async def test_stop_overtakes_a_start() -> None:
    """A stop cancels a start under way and waits for its undo; waiters of the start get Aborted."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(hanging(fake, "start_sandbox"))
    world.fake = fake
    async with world:
        run = asyncio.ensure_future(world.run_sandbox())
        await settle()
        (sandbox_id,) = world.namespaces.paths
        await world.services.sandboxes.stop(sandbox_id)
        with pytest.raises(Aborted):
            await run
        assert nothing_left(world)


async def test_network_comes_before_a_library_backend() -> None:
    """With NetnsSource.LIBRARY the backend receives a namespace that is connected; it stops before the network goes."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        spec = world.fake.sandboxes[sandbox_id].spec
        assert (f"/fake/netns/{sandbox_id}", ("10.88.0.1",)) == (spec.netns, spec.ips)


async def test_network_comes_after_a_backend_with_its_own_namespace() -> None:
    """With NetnsSource.BACKEND the namespace that the backend names is connected afterwards."""
    fake = FakeBackend(netns=NetnsSource.BACKEND, logs_to_disk=False)
    world = Harness(fake)
    async with world:
        sandbox_id = await world.run_sandbox()
        assert "" == fake.sandboxes[sandbox_id].spec.netns
        assert {sandbox_id: "10.88.0.1"} == world.network.addresses
        assert {} == world.namespaces.paths
        await world.services.sandboxes.remove(sandbox_id)
        assert {} == world.network.addresses


async def test_host_network_has_no_addresses() -> None:
    """A pod on the host network is not connected, and its status has no ip (rpc.md 4, PodSandboxStatus)."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox(linux=HOST, hostname="")
        assert {} == world.network.addresses
        assert () == (await world.services.sandboxes.status(sandbox_id, verbose=False)).status.ips


async def test_stop_kills_everything_and_may_be_repeated() -> None:
    """StopPodSandbox kills what runs, frees the network, keeps the sandbox; unknown ids and repetitions are no error."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id, "main", "stubborn")
        await asyncio.gather(*(world.services.sandboxes.stop(sandbox_id) for _ in range(5)))
        detail = await world.services.sandboxes.status(sandbox_id, verbose=False)
        assert (PodSandboxState.NOTREADY, ()) == (detail.status.state, detail.status.ips)
        assert 137 == (await world.services.containers.status(container_id, verbose=False)).status.exit_code
        assert {} == world.network.addresses
        await world.services.sandboxes.stop(world.ids.sandbox_id())
        assert 1 == world.fake.verbs(sandbox_id).count("stop_sandbox")


async def test_removed_sandbox_is_not_found() -> None:
    """A removed sandbox is NotFound for status, gone from lists, and its removal may be repeated."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        await world.run_container(sandbox_id)
        await world.services.sandboxes.remove(sandbox_id)
        await world.services.sandboxes.remove(sandbox_id)
        with pytest.raises(NotFound):
            await world.services.sandboxes.status(sandbox_id, verbose=False)
        assert nothing_left(world)


async def test_stopped_sandbox_takes_no_containers() -> None:
    """CreateContainer and StartContainer in a sandbox that is not ready fail (rpc.md 4, StopPodSandbox)."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.create_container(sandbox_id, "early")
        await world.services.sandboxes.stop(sandbox_id)
        with pytest.raises(FailedPrecondition):
            await world.create_container(sandbox_id, "late")
        with pytest.raises(FailedPrecondition):
            await world.services.containers.start(container_id)


async def test_dead_sandbox_is_not_ready() -> None:
    """A sandbox whose virtual machine ends is NOTREADY at once, and its network is freed by the client's stop."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        await settle()
        world.fake.die(sandbox_id)
        await settle()
        status = (await world.services.sandboxes.status(sandbox_id, verbose=False)).status
        assert PodSandboxState.NOTREADY is status.state
        await world.services.sandboxes.remove(sandbox_id)
        assert nothing_left(world)


async def test_filters_are_joined_by_and() -> None:
    """List filters: id, state and every label pair must match; an empty filter matches all (rpc.md 4, ListPodSandbox)."""
    async with Harness() as world:
        one = await world.run_sandbox("one", labels={"app": "a", "tier": "x"})
        two = await world.run_sandbox("two", labels={"app": "a"})
        await world.services.sandboxes.stop(two)

        async def ids(**wanted: object) -> set[str]:
            return {entry.item.id for entry in await world.services.sandboxes.list(PodSandboxFilter(**wanted))}  # type: ignore[arg-type]

        assert {one, two} == await ids()
        assert {one} == await ids(state=PodSandboxState.READY)
        assert {two} == await ids(state=PodSandboxState.NOTREADY, label_selector={"app": "a"})
        assert {one} == await ids(label_selector={"app": "a", "tier": "x"})
        assert set() == await ids(id=one, state=PodSandboxState.NOTREADY)


async def test_unsupported_field_is_refused_by_name() -> None:
    """An unsupported field is refused with InvalidArgument naming the CRI field; nothing is created."""
    fake = FakeBackend(supported=frozenset(Feature) - {Feature.SYSCTLS}, logs_to_disk=False)
    world = Harness(fake)
    world.fake = fake
    async with world:
        with pytest.raises(InvalidArgument) as refusal:
            await world.run_sandbox(linux=LinuxPodSandboxConfig(sysctls={"net.core.somaxconn": "1"}))
        assert "config.linux.sysctls" == refusal.value.field
        assert nothing_left(world)


async def test_pod_resources_are_updated() -> None:
    """UpdatePodSandboxResources reaches the backend and shows in verbose info."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        change = Resources(cpu_shares=7)
        await world.services.sandboxes.update_resources(sandbox_id, None, change)
        assert [(None, change)] == world.fake.sandboxes[sandbox_id].updates
        info = (await world.services.sandboxes.status(sandbox_id, verbose=True)).info
        assert '"cpu_shares": 7' in info["info"]
