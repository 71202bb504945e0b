"""The stats and metrics families, images, events, runtime."""

import asyncio

import attrs
import pytest

from crishim.errors import NotFound, ResourceExhausted, Unavailable, Unimplemented
from crishim.model.image import ImageSpec
from crishim.model.runtime import ContainerEventType
from crishim.model.stats import (
    ContainerStatsFilter,
    ContainerUsage,
    CpuUsage,
    MetricDescriptor,
    MetricSample,
    PodSandboxStatsFilter,
)
from crishim.model.values import ContainerId
from crishim.service.core import EventHub
from crishim.service.stats import DESCRIPTORS, metric
from crishim.testing import FakeBackend, FakeClock, Harness, failing
from crishim.testing.doubles import RecordingObserver, settle


async def test_nano_cores_come_from_two_samples() -> None:
    """usage_nano_cores is unset for the first sample, and a rate afterwards, however often it is queried (rpc.md 8)."""

    class Ticking(FakeBackend):
        ticks = 0

        async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
            self.ticks += 1
            usage = await super().container_usage(container_id)
            cpu = CpuUsage(timestamp=self.ticks * 1_000_000_000, usage_core_nano_seconds=self.ticks * 250_000_000)
            return attrs.evolve(usage, cpu=cpu)

    async with Harness(Ticking(logs_to_disk=False)) as world:
        container_id = await world.run_container(await world.run_sandbox())
        first = (await world.services.stats.container(container_id)).usage.cpu
        await world.clock.advance(2)
        later = [(await world.services.stats.container(container_id)).usage.cpu for _ in range(3)]
        rates = [cpu.usage_nano_cores for cpu in (first, *later) if cpu is not None]
        assert [None, 125_000_000, 125_000_000, 125_000_000] == rates


async def test_one_bad_container_does_not_spoil_the_list() -> None:
    """A container that cannot be measured is left out of the list (rpc.md 5, ListContainerStats)."""
    fake = FakeBackend(logs_to_disk=False)
    async with Harness(failing(fake, "container_usage", at=1)) as world:
        sandbox_id = await world.run_sandbox()
        await world.run_container(sandbox_id, "one")
        await world.run_container(sandbox_id, "two")
        assert 1 == len(await world.services.stats.containers(ContainerStatsFilter()))
        assert 2 == len(await world.services.stats.containers(ContainerStatsFilter(pod_sandbox_id=sandbox_id)))
        assert 0 == len(await world.services.stats.containers(ContainerStatsFilter(label_selector={"no": "one"})))


async def test_without_stats_only_the_container_list_answers() -> None:
    """Without SupportsStats ListContainerStats is empty and the rest Unimplemented: the kubelet's summary depends on it."""
    async with Harness(FakeBackend(capabilities=frozenset(), logs_to_disk=False)) as world:
        container_id = await world.run_container(await world.run_sandbox())
        stats = world.services.stats
        assert [] == await stats.containers(ContainerStatsFilter())
        for work in (stats.container(container_id), stats.sandboxes(PodSandboxStatsFilter()), stats.metric_descriptors()):
            with pytest.raises(Unimplemented, match="SupportsStats"):
                await work


async def test_pod_stats_need_a_ready_pod() -> None:
    """PodSandboxStats of a pod that is not ready is Unavailable, of an unknown one NotFound (rpc.md 8)."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        await world.run_container(sandbox_id)
        assert 1 == len((await world.services.stats.sandbox(sandbox_id)).containers)
        assert 1 == len(await world.services.stats.sandboxes(PodSandboxStatsFilter(id=sandbox_id)))
        await world.services.sandboxes.stop(sandbox_id)
        with pytest.raises(Unavailable):
            await world.services.stats.sandbox(sandbox_id)
        with pytest.raises(NotFound):
            await world.services.stats.sandbox(world.ids.sandbox_id())


async def test_every_metric_has_a_value_for_each_label() -> None:
    """Label values stand in their descriptor's order and number (rpc.md 9)."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        await world.run_container(sandbox_id)
        described = {descriptor.name: descriptor for descriptor in await world.services.stats.metric_descriptors()}
        (pod,) = await world.services.stats.metrics()
        samples = [*pod.metrics, *(value for measured in pod.container_metrics for value in measured.metrics)]
        assert samples
        assert all(len(described[sample.name].label_keys) == len(sample.label_values) for sample in samples)


@pytest.mark.parametrize("descriptor", DESCRIPTORS.values(), ids=DESCRIPTORS)
def test_descriptors_are_complete(descriptor: MetricDescriptor) -> None:
    """Every descriptor has help and labels, and refuses samples of another shape."""
    assert descriptor.help
    assert descriptor.label_keys
    assert None is metric(MetricSample(name=descriptor.name, value=1, labels=("x",) * 9), ("id", "image", "ns", "pod", "c"))


async def test_events_of_a_pods_lifecycle() -> None:
    """Sandbox and containers: created, started, stopped, deleted, each with the pod as it was (rpc.md 6)."""
    async with Harness() as world:
        seen = []
        stream = world.services.events.subscribe()

        async def collect() -> None:
            async for event in stream:
                seen.append(event)  # noqa: PERF401 - the stream never ends

        reader = asyncio.ensure_future(collect())
        await settle()
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
        await world.services.containers.stop(container_id, 0)
        await world.services.containers.remove(container_id)
        await world.services.sandboxes.remove(sandbox_id)
        await settle()
        reader.cancel()
        kinds = [(event.container_id[0], event.type.name) for event in seen]
        assert [
            ("5", "CREATED"),
            ("5", "STARTED"),
            ("c", "CREATED"),
            ("c", "STARTED"),
            ("c", "STOPPED"),
            ("c", "DELETED"),
            ("5", "STOPPED"),
            ("5", "DELETED"),
        ] == kinds
        assert all(event.pod_sandbox_status.metadata.name == "pod" for event in seen)


async def test_slow_subscriber_loses_its_stream() -> None:
    """A subscriber that is too slow gets an error instead of losing single events."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        entry = world.services._core.table.sandbox(sandbox_id)
        observer = RecordingObserver()
        hub = EventHub(FakeClock(), 2, observer)
        stream = hub.subscribe()
        first = stream.__anext__()

        waiting = asyncio.ensure_future(first)
        await settle()
        for _ in range(5):
            hub.publish(entry, "x", ContainerEventType.STARTED)
        await waiting
        await stream.__anext__()
        with pytest.raises(ResourceExhausted):
            await stream.__anext__()
        assert [("subscriber_dropped",)] == observer.calls


async def test_images_follow_the_handler() -> None:
    """Image calls go by the image's runtime handler; unknown images are no error in ImageStatus (rpc.md 3, 7)."""
    async with Harness() as world:
        images = world.services.images
        assert None is await images.status(ImageSpec(image="nobody"), verbose=False)
        image_id = await images.pull(ImageSpec(image="registry.example/new:1"), None, None)
        listed = await images.list(ImageSpec(image=image_id))
        assert [image_id] == [image.id for image in listed]
        await images.remove(ImageSpec(image="registry.example/new:1"))
        await images.remove(ImageSpec(image="registry.example/new:1"))
        assert () == await images.list(ImageSpec(image=image_id))
        assert 1 == len((await images.fs_info()).image_filesystems)


async def test_status_has_the_claimed_capabilities_only() -> None:
    """Status lists every handler, and no feature that no backend claimed; RuntimeConfig is Unimplemented without a driver."""
    async with Harness() as world:
        status = await world.services.runtime.status(verbose=True)
        assert ["RuntimeReady", "NetworkReady"] == [condition.type for condition in status.conditions]
        assert all(condition.status for condition in status.conditions)
        assert [""] == [handler.name for handler in status.handlers]
        assert "SupportsExec" in status.info["config"]
        with pytest.raises(Unimplemented):
            await world.services.runtime.config()
