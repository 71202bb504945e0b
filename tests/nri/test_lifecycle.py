"""What plugins are called for, and what they may change, over a node of fakes and real sockets."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crishim._proto import nri_pb2 as pb
from crishim.errors import CrishimError, InvalidArgument, NotFound, Unknown
from crishim.model.container import ContainerFilter, ContainerState
from crishim.model.features import Feature
from crishim.model.process import Exit
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxFilter
from crishim.model.values import EMPTY, ContainerId
from crishim.nri.plugin import REMOVED, Adjustment
from crishim.testing import FakeBackend
from crishim.testing.conformance.candidate import until
from tests.nri.world import Noting, hang, nri_node, refusing, replying, update


async def test_the_order_of_a_lifecycle(tmp_path: Path) -> None:
    """A plugin is called at every point, in order, once (nri README, "Pod and Container Lifecycle Events")."""
    async with nri_node(tmp_path) as node, node.plugin(plugin := Noting()):
        services = node.world.services
        pod = await node.world.run_sandbox()
        container = await node.world.run_container(pod, "main", "sleep")
        await services.containers.update_resources(container, Resources(cpu_shares=5), EMPTY)
        await services.sandboxes.update_resources(pod, Resources(cpu_shares=7), None)
        await services.containers.stop(container, 0)
        await services.containers.remove(container)
        await services.sandboxes.stop(pod)
        await services.sandboxes.stop(pod)
        await services.sandboxes.remove(pod)
    assert [
        ("run_pod_sandbox", pod),
        ("create_container", container),
        ("post_create_container", container),
        ("start_container", container),
        ("post_start_container", container),
        ("update_container", container),
        ("post_update_container", container),
        ("update_pod_sandbox", pod),
        ("post_update_pod_sandbox", pod),
        ("stop_container", container),
        ("remove_container", container),
        ("stop_pod_sandbox", pod),
        ("remove_pod_sandbox", pod),
    ] == plugin.events


async def test_an_exit_is_a_stop(tmp_path: Path) -> None:
    """A container that ends by itself is reported as stopped, with its exit code, without any request."""
    async with nri_node(tmp_path) as node, node.plugin(plugin := Noting()):
        pod = await node.world.run_sandbox()
        await node.world.run_container(pod, "main", "sleep")
        node.world.fake.exits("main", 3)
        await until(lambda: "stop_container" in plugin.containers)
    assert (3, pb.CONTAINER_STOPPED) == (
        plugin.containers["stop_container"].exit_code,
        plugin.containers["stop_container"].state,
    )


async def test_a_plugin_of_later_knows_all(tmp_path: Path) -> None:
    """A plugin that connects is told of every pod and container there is."""
    async with nri_node(tmp_path) as node:
        pod = await node.world.run_sandbox()
        container = await node.world.run_container(pod, "main", "sleep")
        async with node.plugin(plugin := Noting()):
            assert {pod, container} == set(plugin.synced)


async def test_nothing_is_created_beside_a_synchronization(tmp_path: Path) -> None:
    """What is created while a plugin is being synchronized reaches it: in the synchronization, or as a creation after it."""
    go = asyncio.Event()

    async def wait(*_: Any) -> None:
        await go.wait()

    async with nri_node(tmp_path) as node:
        pod = await node.world.run_sandbox()
        plugin = Noting(synchronize=wait)
        running = asyncio.create_task(plugin.run(node.socket))
        await until(lambda: bool(plugin.synced))
        creating = [asyncio.ensure_future(node.world.create_container(pod, f"c{number}", "sleep")) for number in range(5)]
        await asyncio.sleep(0)
        go.set()
        created = set(await asyncio.gather(*creating))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert created == {subject for event, subject in plugin.events if event == "create_container"}


async def test_adjustments(tmp_path: Path) -> None:
    """What a field of the spec expresses reaches any backend; limits are shown by the status."""
    adjustment = Adjustment(
        env={"ADDED": "1", "HOME": REMOVED}, annotations={"a": "b"}, memory=1 << 26, cpu_shares=11, cpus="0", mems="0"
    )
    async with nri_node(tmp_path) as node, node.plugin(Noting(create_container=replying(adjustment))):
        pod = await node.world.run_sandbox()
        container = await node.world.create_container(pod, "main", "sleep")
        spec = node.world.fake.containers[container].spec
        status = (await node.world.services.containers.status(container, verbose=False)).status
    assert ("1", False, "b") == (spec.env["ADDED"], "HOME" in spec.env, spec.annotations["a"])
    limits = (1 << 26, 11, "0", "0")
    for resources in (spec.resources, status.resources):
        assert limits == (
            resources.memory_limit_in_bytes,
            resources.cpu_shares,
            resources.cpuset_cpus,
            resources.cpuset_mems,
        )


async def test_plugins_are_called_by_index(tmp_path: Path) -> None:
    """The lower index is first, whoever came first, and the later sees what the earlier has adjusted."""
    first = Noting("10-noting", create_container=replying(Adjustment(env={"X": "1"})))
    second = Noting("20-noting")
    async with nri_node(tmp_path) as node, node.plugin(second), node.plugin(first):
        await node.world.create_container(await node.world.run_sandbox(), "main", "sleep")
    assert first.order[0] < second.order[0]
    assert "X=1" in second.containers["create_container"].env


async def test_a_conflict(tmp_path: Path) -> None:
    """Two plugins that set the same fail the creation, and it leaves nothing; a later one may remove and set."""
    one = Noting("10-one", create_container=replying(Adjustment(env={"X": "1"})))
    two = Noting("20-two", create_container=replying(Adjustment(env={"X": "2"})))
    async with nri_node(tmp_path) as node, node.plugin(one):
        pod = await node.world.run_sandbox()
        async with node.plugin(two):
            with pytest.raises(Unknown, match="10-one and 20-two both set Env X"):
                await node.world.create_container(pod, "main", "sleep")
        assert {} == dict(node.world.fake.containers)
        both = pb.ContainerAdjustment(env=[pb.KeyValue(key="-X"), pb.KeyValue(key="X", value="3")])
        async with node.plugin(Noting("20-two", create_container=replying(both))):
            container = await node.world.create_container(pod, "main", "sleep")
            assert "3" == node.world.fake.containers[container].spec.env["X"]


@pytest.mark.parametrize("event", ["run_pod_sandbox", "create_container", "start_container"])
async def test_a_refusal_fails_the_request(tmp_path: Path, event: str) -> None:
    """A plugin's error fails the request with its text; what had been created is undone, and a retry succeeds."""
    refused = Noting(**{event: refusing("not today")})
    async with nri_node(tmp_path) as node:
        async with node.plugin(refused):
            with pytest.raises(Unknown, match=r"50-noting refuses .*not today"):
                await node.world.run_container(await node.world.run_sandbox(), "main", "sleep")
            services = node.world.services
            shown = await services.containers.list(ContainerFilter())
            assert [ContainerState.EXITED] * (event == "start_container") == [item.item.state for item in shown]
            assert (event != "run_pod_sandbox") == bool(await services.sandboxes.list(PodSandboxFilter()))
        async with node.plugin(Noting()):
            await node.world.run_container(await node.world.run_sandbox(), "other", "sleep")


@pytest.mark.parametrize("event", ["post_create_container", "stop_container", "remove_container", "stop_pod_sandbox"])
async def test_a_refusal_after_the_fact(tmp_path: Path, event: str) -> None:
    """A plugin cannot keep anything from having happened, from stopping, or from being removed."""
    async with nri_node(tmp_path) as node, node.plugin(Noting(**{event: refusing()})):
        pod = await node.world.run_sandbox()
        await node.world.run_container(pod, "main", "sleep")
        await node.world.services.sandboxes.remove(pod)
        assert ({}, {}) == (node.world.fake.sandboxes, node.world.fake.containers)


@pytest.mark.parametrize("event", ["run_pod_sandbox", "create_container", "start_container", "stop_container"])
async def test_a_plugin_that_hangs_is_dropped(tmp_path: Path, event: str) -> None:
    """After its time a plugin takes part in nothing, and the request goes on without it (nri README, "Plugin Registration")."""
    from crishim.nri.connection import TimeLimits

    async with nri_node(tmp_path, TimeLimits(registration=5.0, request=0.05)) as node:
        plugin = Noting(**{event: hang})
        running = asyncio.create_task(plugin.run(node.socket))
        await until(lambda: node.synchronized == 1)
        pod = await node.world.run_sandbox()
        container = await node.world.run_container(pod, "main", "sleep")
        await node.world.services.containers.stop(container, 0)
        await node.world.services.sandboxes.remove(pod)
        await until(running.done)
        assert not node.nri.active


async def test_a_plugin_that_leaves_in_the_middle(tmp_path: Path) -> None:
    """A connection that ends over a creation fails nothing."""
    async with nri_node(tmp_path) as node:
        plugin = Noting()

        async def leave(*_: Any) -> None:
            running.cancel()
            await asyncio.Event().wait()

        plugin.replies["create_container"] = leave
        running = asyncio.create_task(plugin.run(node.socket))
        await until(lambda: node.synchronized == 1)
        container = await node.world.create_container(await node.world.run_sandbox(), "main", "sleep")
        assert container in node.world.fake.containers
        await until(lambda: not node.nri.active)


async def test_updates_of_others(tmp_path: Path) -> None:
    """A creation, an update and a stop may update other containers; of itself a creation may not."""
    async with nri_node(tmp_path) as node:
        pod = await node.world.run_sandbox()
        other = await node.world.run_container(pod, "other", "sleep")
        plugin = Noting(
            create_container=replying((None, [update(other, shares=21)])),
            update_container=replying([update(other, memory=1 << 25)]),
            stop_container=replying([update(other, shares=22)]),
        )
        table = node.world.fake.containers
        async with node.plugin(plugin):
            container = await node.world.run_container(pod, "main", "sleep")
            assert 21 == table[other].resources.cpu_shares
            await node.world.services.containers.update_resources(container, Resources(cpu_shares=3), EMPTY)
            assert (1 << 25, 3) == (table[other].resources.memory_limit_in_bytes, table[container].resources.cpu_shares)
            await node.world.services.containers.stop(container, 0)
            await until(lambda: table[other].resources.cpu_shares == 22)

        async def itself(_: pb.PodSandbox, container: pb.Container) -> Any:
            return None, [update(container.id, shares=1)]

        async with node.plugin(Noting(create_container=itself)):
            with pytest.raises(Unknown, match="which it may only adjust"):
                await node.world.create_container(pod, "third", "sleep")


async def test_an_update_is_changed(tmp_path: Path) -> None:
    """A plugin changes the update under way; what CRI cannot carry is refused by name."""

    async def double(_: pb.PodSandbox, container: pb.Container, limits: pb.LinuxResources) -> Any:
        return [update(container.id, shares=2 * limits.cpu.shares.value)]

    async def reserve(_: pb.PodSandbox, container: pb.Container, __: pb.LinuxResources) -> Any:
        made = pb.ContainerUpdate(container_id=container.id)
        made.linux.resources.memory.reservation.value = 5
        return [made]

    async with nri_node(tmp_path) as node:
        pod = await node.world.run_sandbox()
        container = await node.world.run_container(pod, "main", "sleep")
        update_resources = node.world.services.containers.update_resources
        async with node.plugin(Noting(update_container=double)):
            await update_resources(container, Resources(cpu_shares=8), EMPTY)
            assert 16 == node.world.fake.containers[container].resources.cpu_shares
        async with node.plugin(Noting(update_container=reserve)):
            with pytest.raises(InvalidArgument, match=r"memory\.reservation"):
                await update_resources(container, Resources(cpu_shares=8), EMPTY)


async def test_unsolicited_updates_and_evictions(tmp_path: Path) -> None:
    """A plugin may update and evict containers at any time; updates that failed come back."""
    async with nri_node(tmp_path) as node, node.plugin(plugin := Noting()):
        pod = await node.world.run_sandbox()
        container = await node.world.run_container(pod, "main", "sleep")
        failed = await plugin.update_containers([update(container, shares=9), update("nobody", shares=9)])
        assert (["nobody"], 9) == (
            [item.container_id for item in failed],
            node.world.fake.containers[container].resources.cpu_shares,
        )
        eviction = pb.ContainerEviction(container_id=container, reason="test")
        assert [] == list(await plugin.update_containers([], [eviction]))
        status = (await node.world.services.containers.status(container, verbose=False)).status
        assert ContainerState.EXITED == status.state


async def test_updates_at_the_synchronization(tmp_path: Path) -> None:
    """What a plugin asks for in its synchronization is done, as far as it can be."""
    async with nri_node(tmp_path) as node:
        container = await node.world.run_container(await node.world.run_sandbox(), "main", "sleep")
        wanted = [update("nobody", shares=1), update(container, shares=13)]
        async with node.plugin(Noting(synchronize=replying(wanted))):
            await until(lambda: node.world.fake.containers[container].resources.cpu_shares == 13)


class Validating(Noting):
    """A plugin that validates what others adjust."""

    def __init__(self, verdict: str = "") -> None:
        super().__init__("90-validating")
        self.verdict = verdict
        self.requests: list[pb.ValidateContainerAdjustmentRequest] = []

    async def validate_container_adjustment(self, request: pb.ValidateContainerAdjustmentRequest) -> str:
        self.requests.append(request)
        return self.verdict


async def test_validation(tmp_path: Path) -> None:
    """A validating plugin sees the merged adjustment with its owners, and may reject the creation."""
    setting = Noting("10-setting", create_container=replying(Adjustment(env={"X": "1"})))
    async with nri_node(tmp_path) as node, node.plugin(setting):
        pod = await node.world.run_sandbox()
        async with node.plugin(validator := Validating()):
            container = await node.world.create_container(pod, "main", "sleep")
        async with node.plugin(Validating(verdict="too many")):
            with pytest.raises(Unknown, match=r"90-validating rejects .*too many"):
                await node.world.create_container(pod, "other", "sleep")
    (request,) = validator.requests
    owners = request.owners.owners[container].compound[pb.Env].owners
    assert ({"X": "10-setting"}, "X=1" in request.container.env) == (dict(owners), False)
    assert ["setting", "validating"] == [plugin.name for plugin in request.plugins]


async def test_what_only_config_json_has(tmp_path: Path) -> None:
    """Changes that no field of the spec expresses are for backends that support them, and refused for others by name."""
    hooked = pb.ContainerAdjustment(hooks=pb.Hooks(prestart=[pb.Hook(path="/bin/true")]))
    limited = FakeBackend(logs_to_disk=False, supported=frozenset(Feature) - {Feature.OCI_CHANGES})
    plugin = Noting(create_container=replying(hooked))
    async with nri_node(tmp_path, backend=limited) as node, node.plugin(plugin):
        with pytest.raises(InvalidArgument, match="oci_changes"):
            await node.world.create_container(await node.world.run_sandbox(), "main", "sleep")
    full = FakeBackend(logs_to_disk=False, supported=frozenset(Feature))
    async with nri_node(tmp_path, backend=full) as node, node.plugin(plugin):
        container = await node.world.create_container(await node.world.run_sandbox(), "main", "sleep")
        assert {"hooks": {"prestart": [{"path": "/bin/true"}]}} == dict(full.containers[container].spec.oci_changes)


async def test_a_container_under_creation_is_not_shown(tmp_path: Path) -> None:
    """Neither lists nor ContainerStatus show a container that a plugin holds up (nri_linux.go of the official suite)."""
    go, seen = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> None:
        seen.set()
        await go.wait()

    async with nri_node(tmp_path) as node, node.plugin(plugin := Noting(create_container=wait)):
        creating = asyncio.ensure_future(node.world.create_container(await node.world.run_sandbox(), "main", "sleep"))
        await seen.wait()
        containers = node.world.services.containers
        assert [] == list(await containers.list(ContainerFilter()))
        with pytest.raises(NotFound):
            await containers.status(node_id := plugin.containers["create_container"].id, verbose=False)  # type: ignore[arg-type]
        go.set()
        assert node_id == await creating


async def test_without_plugins_nothing_is_called(tmp_path: Path) -> None:
    """While no plugin is connected, nothing of the seat is called, and no view of anything is built."""
    async with nri_node(tmp_path) as node:
        node.nri.notify = node.nri.adjust = node.nri.update = None  # type: ignore[method-assign, assignment]
        pod = await node.world.run_sandbox()
        container = await node.world.run_container(pod, "main", "sleep")
        await node.world.services.containers.update_resources(container, Resources(cpu_shares=2), EMPTY)
        await node.world.services.sandboxes.remove(pod)
        assert {} == dict(node.world.fake.containers)


async def test_a_hundred_at_once(tmp_path: Path) -> None:
    """A hundred containers at once pass two plugins, each once."""
    plugins = [Noting("10-one"), Noting("20-two")]
    async with nri_node(tmp_path) as node, node.plugin(plugins[0]), node.plugin(plugins[1]):
        pod = await node.world.run_sandbox()
        created = await asyncio.gather(*(node.world.create_container(pod, f"c{number}", "sleep") for number in range(100)))
    for plugin in plugins:
        assert sorted(created) == sorted(subject for event, subject in plugin.events if event == "create_container")


async def test_errors_are_ours(tmp_path: Path) -> None:
    """What a plugin's update of another container fails with fails the creation, unless its failure is to be ignored."""
    async with nri_node(tmp_path) as node:
        pod = await node.world.run_sandbox()
        for ignore, name in ((False, "one"), (True, "two")):
            plugin = Noting(create_container=replying((None, [update("nobody", shares=3, ignore=ignore)])))
            async with node.plugin(plugin):
                creating = node.world.create_container(pod, name, "sleep")
                if ignore:
                    assert await creating in node.world.fake.containers
                else:
                    with pytest.raises(CrishimError, match="nobody"):
                        await creating


async def test_a_stop_that_updates_its_own_container(tmp_path: Path) -> None:
    """Updates in the report of a stop hold up no removal, of the container itself or of two that name one another."""

    async def both(_: pb.PodSandbox, container: pb.Container) -> Any:
        return [update(each, shares=2) for each in created]

    created: list[str] = []
    async with nri_node(tmp_path) as node, node.plugin(Noting(stop_container=both)):
        pod = await node.world.run_sandbox()
        created += [await node.world.run_container(pod, name, "sleep") for name in ("one", "two")]
        async with asyncio.timeout(10):
            await asyncio.gather(*(node.world.services.containers.remove(ContainerId(each)) for each in created))
        assert {} == dict(node.world.fake.containers)


async def test_a_start_beside_a_synchronization_that_updates(tmp_path: Path) -> None:
    """A plugin that answers its synchronization with an update of a container that is being started holds up nobody."""
    go = asyncio.Event()

    async def wait(_: Any, containers: Any) -> Any:
        await go.wait()
        return [update(container.id, shares=5) for container in containers]

    async with nri_node(tmp_path) as node:
        pod = await node.world.run_sandbox()
        container = await node.world.create_container(pod, "main", "sleep")
        plugin = Noting(synchronize=wait)
        running = asyncio.create_task(plugin.run(node.socket))
        await until(lambda: bool(plugin.synced))
        starting = asyncio.ensure_future(node.world.services.containers.start(container))
        await asyncio.sleep(0.01)
        go.set()
        async with asyncio.timeout(10):
            await starting
            await until(lambda: node.world.fake.containers[container].resources.cpu_shares == 5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_pods_that_ended_without_a_plugin(tmp_path: Path) -> None:
    """A plugin that comes back is not sent what has ended while no plugin was there."""
    async with nri_node(tmp_path) as node:
        async with node.plugin(Noting()):
            pod = await node.world.run_sandbox()
        await node.world.services.sandboxes.remove(pod)
        async with node.plugin(plugin := Noting()):
            assert [] == plugin.synced


async def test_texts_that_protobuf_refuses(tmp_path: Path) -> None:
    """A container whose exit has a message that is not UTF-8 is reported, and removed."""
    async with nri_node(tmp_path) as node, node.plugin(plugin := Noting()):
        container = await node.world.run_container(await node.world.run_sandbox(), "main", "sleep")
        node.world.fake.containers[container].end(Exit(code=1, message="a\udcff b\ud800"))
        await until(lambda: "stop_container" in plugin.containers)
        await node.world.services.containers.remove(container)
    assert "a? b?" == plugin.containers["stop_container"].status_message


async def test_an_annotation_needs_no_config_json(tmp_path: Path) -> None:
    """Annotations reach every backend in the spec, also one that writes no config.json."""
    limited = FakeBackend(logs_to_disk=False, supported=frozenset(Feature) - {Feature.OCI_CHANGES})
    adjustment = Adjustment(annotations={"a": "b"})
    async with nri_node(tmp_path, backend=limited) as node, node.plugin(Noting(create_container=replying(adjustment))):
        container = await node.world.create_container(await node.world.run_sandbox(), "main", "sleep")
        assert "b" == limited.containers[container].spec.annotations["a"]
