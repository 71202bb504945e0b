"""CgroupUsage of real containers, through the service."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crishim.errors import NotFound
from crishim.model.container import LinuxContainerConfig
from crishim.model.resources import Resources
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.stats import ContainerStatsFilter, SandboxUsage
from crishim.model.values import SandboxId
from crishim.testing import Harness
from tests.backends.runc.world import needs, node
from tests.cni.world import run_in

pytestmark = [pytest.mark.node, needs("runc", "conmon", "busybox", "unshare", "nsenter", "ip", "catatonit")]

BUSY = ("sh", "-c", "dd if=/dev/zero of=/written bs=1k count=300 2>/dev/null; touch /ready; while :; do :; done")

NOT_EVERYWHERE = {
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
}
"""What only containers have that have reached a disk; the official suite lets these be absent too."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Harness]:
    async with node(tmp_path) as world:
        yield world


async def test_every_metric_has_a_value(world: Harness, tmp_path: Path) -> None:
    """Each descriptor has a value for a running pod, with all its labels, as the official suite demands (rpc.md 9)."""
    sandbox = await world.run_sandbox()
    container = await world.run_container(sandbox, "main", *BUSY)
    run_in(str(tmp_path / "pins" / sandbox / "net"), "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    stats = world.services.stats
    described = {descriptor.name: descriptor for descriptor in await stats.metric_descriptors()}
    (pod,) = await stats.metrics()
    (measured,) = pod.container_metrics
    metrics = [*pod.metrics, *measured.metrics]
    assert set() == described.keys() - {metric.name for metric in metrics} - NOT_EVERYWHERE
    assert all(len(described[metric.name].label_keys) == len(metric.label_values) for metric in metrics)
    assert container == measured.container_id
    assert {("eth0",), ("eth1",)} == {metric.label_values[5:] for metric in pod.metrics}


async def test_usage_of_a_running_container(world: Harness, tmp_path: Path) -> None:
    """A busy container has CPU time, memory, a task and its written bytes; a limit shows as available memory."""
    limits = LinuxContainerConfig(resources=Resources(memory_limit_in_bytes=64 << 20))
    container = await world.run_container(await world.run_sandbox(), "main", *BUSY, linux=limits)
    while not (tmp_path / "roots" / container / "ready").exists():  # noqa: ASYNC110 - the container makes it
        await asyncio.sleep(0.01)
    stats = world.services.stats
    while not (cpu := (await stats.container(container)).usage.cpu) or not cpu.usage_nano_cores:
        pass
    usage = (await stats.container(container)).usage
    assert usage.memory is not None
    assert usage.memory.working_set_bytes is not None
    assert 64 << 20 == usage.memory.working_set_bytes + (usage.memory.available_bytes or 0)
    assert usage.process is not None
    assert (usage.process.process_count or 0) > 0
    assert usage.writable_layer is not None
    assert (usage.writable_layer.used_bytes or 0) > 300 * 1024
    assert (usage.writable_layer.inodes_used or 0) > 8


async def test_an_ended_container_keeps_its_layer(world: Harness) -> None:
    """An ended container has its writable layer, its last usage, and no process; a removed one is NotFound."""
    container = await world.run_container(await world.run_sandbox(), "main", "true")
    core = world.services._core
    await core.backends.get("").backend.wait_container(container)
    (stats,) = await world.services.stats.containers(ContainerStatsFilter(id=container))
    assert stats.usage.writable_layer is not None
    assert stats.usage.process is not None
    assert 0 == stats.usage.process.process_count
    await world.services.containers.remove(container)
    with pytest.raises(NotFound):
        await world.services.stats.container(container)


async def settled(world: Harness, sandbox: SandboxId, processes: int) -> SandboxUsage:
    """A pod's usage once the processes that started its containers have ended."""
    async with asyncio.timeout(30):
        while True:
            usage = (await world.services.stats.sandbox(sandbox)).usage
            if usage.process is not None and usage.process.process_count == processes:
                return usage
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("parent", "processes"), [("", 3), (f"/crishim-test-{os.getpid()}", 5)])
async def test_a_pod_is_all_its_containers(world: Harness, parent: str, processes: int) -> None:
    """A pod's usage is its cgroup's, with its monitors, if it has one, else a sum over containers and pause."""
    namespaces = NamespaceOption(network=NamespaceMode.NODE, pid=NamespaceMode.POD)
    security = LinuxSandboxSecurityContext(namespace_options=namespaces)
    sandbox = await world.run_sandbox(linux=LinuxPodSandboxConfig(cgroup_parent=parent, security_context=security))
    for name in ("one", "two"):
        await world.run_container(sandbox, name, "sleep", "600")
    usage = await settled(world, sandbox, processes)
    assert usage.process is not None
    assert processes == usage.process.process_count
    assert usage.memory is not None
    assert (usage.memory.usage_bytes or 0) > 0
    assert None is usage.network
    await world.services.sandboxes.remove(sandbox)
    remove_cgroup(parent)


def remove_cgroup(parent: str) -> None:
    """Remove a pod's cgroup as the kubelet would."""
    for folder in Path("/sys/fs/cgroup").glob(f"*{parent}") if parent else ():
        folder.rmdir()


async def test_new_sums_of_a_pod_are_noted(world: Harness) -> None:
    """UpdatePodSandboxResources succeeds and is recorded; the kubelet has written the cgroup already."""
    sandbox = await world.run_sandbox()
    await world.services.sandboxes.update_resources(sandbox, None, Resources(cpu_shares=512))
    assert Resources(cpu_shares=512) == world.services._core.table.sandbox(sandbox).record.resources
