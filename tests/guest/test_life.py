"""Pods in the slices of a kubelet whose cgroup driver is systemd, with runc and with crun."""

import asyncio
import os
from pathlib import Path

import pytest

from crishim.cri import pb
from crishim.errors import Code
from crishim.model.resources import Resources
from crishim.model.values import FrozenDict
from crishim.play import CallError, CriClient
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs
from tests.guest.world import MIB, in_guest, kubelets_pod, run_container, systemctl
from tests.node.world import TOOLS, Node, real_plugins

pytestmark = [pytest.mark.node, needs(*TOOLS, "crun"), real_plugins(), in_guest()]

LIMITS = Resources(memory_limit_in_bytes=64 * MIB, cpu_quota=50_000, cpu_period=100_000)
DISK = Path("/var/tmp")
"""On the guest's disk; its /tmp is a tmpfs."""
LISTENS = ("sh", "-c", "busybox nc -l -p 7000 & exec sleep 600")
LISTENING = ("sh", "-c", "until busybox grep -q :1B58 /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done")


def limits_of(scope: Path) -> list[str]:
    """What the kernel holds a container to."""
    return [(scope / name).read_text().strip() for name in ("memory.max", "cpu.max")]


async def usage(client: CriClient, sandbox: str) -> pb.PodSandboxStats:
    """A pod's figures."""
    request = pb.PodSandboxStatsRequest(pod_sandbox_id=sandbox)
    return (await client._ask("PodSandboxStats", request, pb.PodSandboxStatsResponse)).stats


async def metrics(client: CriClient, container: str) -> dict[str, int]:
    """A container's metrics by name."""
    reply = await client._ask("ListPodSandboxMetrics", pb.ListPodSandboxMetricsRequest(), pb.ListPodSandboxMetricsResponse)
    containers = [found for pod in reply.pod_metrics for found in pod.container_metrics if found.container_id == container]
    return {metric.name: metric.value.value for found in containers for metric in found.metrics}


async def test_where_a_pod_lies(node: Node) -> None:
    """A container and its monitor have a scope each in the pod's slice, and nothing is left of them afterwards."""
    node.start()
    async with node.client() as client:
        assert "systemd" == await client.cgroup_driver()
        await node.pull(client)
        with kubelets_pod(node, "life1") as pod:
            sandbox = await client.run_sandbox(pod.config)
            container = await run_container(client, node, sandbox, pod, "c")
            expected = {f"crishim-{container}.scope", f"crishim-conmon-{container}.scope"}
            await until(lambda: expected == pod.scopes())
            assert 0 == (await client.exec_sync(container, ("true",))).exit_code
            await client.stop_container(container, 0)
            await node.empty(client)
            await until(lambda: not pod.scopes())
    assert set() == node.traces()


async def test_containers_that_end_at_once(node: Node) -> None:
    """A container that ends and is removed while its monitor is being moved leaves no scope."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "life6") as pod:
            sandbox = await client.run_sandbox(pod.config)
            for number in range(8):
                await client.remove_container(await run_container(client, node, sandbox, pod, f"c{number}", "true"))
            await until(lambda: not pod.scopes())
            await node.empty(client)


async def test_limits_stay(node: Node) -> None:
    """The kubelet's next change of the pod's slice, and a reload of systemd, leave a container's limits as they are."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "life2") as pod:
            sandbox = await client.run_sandbox(pod.config)
            container = await run_container(client, node, sandbox, pod, "c", limits=LIMITS)
            scope = pod.scope(container)
            before = limits_of(scope)
            assert [str(64 * MIB), "50000 100000"] == before
            systemctl("set-property", "--runtime", pod.unit, "CPUWeight=50", f"MemoryMax={256 * MIB}")
            systemctl("daemon-reload")
            assert before == limits_of(scope)
            assert str(256 * MIB) == (pod.folder / "memory.max").read_text().strip()
            await node.empty(client)


async def test_figures(node: Node) -> None:
    """A pod's memory is that of its own cgroup, with its limit; a container's descriptors and sockets are counted."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "life3", memory=128 * MIB) as pod:
            sandbox = await client.run_sandbox(pod.config)
            container = await run_container(client, node, sandbox, pod, "c", *LISTENS)
            assert 0 == (await client.exec_sync(container, LISTENING, 60)).exit_code
            memory = (await usage(client, sandbox)).linux.memory
            assert 128 * MIB == memory.available_bytes.value + memory.working_set_bytes.value
            assert memory.usage_bytes.value > 0
            values = await metrics(client, container)
            assert values["container_processes"] >= 2
            assert values["container_file_descriptors"] >= 6
            assert values["container_sockets"] >= 1
            await node.empty(client)


async def test_unified_limits_and_pressure(node: Node) -> None:
    """Limits named as files of cgroup v2 are set; a throttled write is I/O pressure of the container and of its pod."""
    number = device(DISK)
    unified = FrozenDict({"memory.high": str(48 * MIB), "io.max": f"{number} wbps={MIB}"})
    writes = ("sh", "-c", "dd if=/dev/zero of=/data/crishim-written bs=1M count=3 conv=fsync; exec sleep 600")
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "life7") as pod:
            sandbox = await client.run_sandbox(pod.config)
            limits_asked = Resources(unified=unified)
            container = await run_container(client, node, sandbox, pod, "c", *writes, limits=limits_asked, data=str(DISK))
            limits = {name: read_below(pod.scope(container), name) for name in unified}
            assert {"memory.high": {str(48 * MIB)}, "io.max": {f"{number} rbps=max wbps={MIB} riops=max wiops=max"}} == {
                name: values - {"max", ""} for name, values in limits.items()
            }
            await until_under_pressure(client, sandbox, container)
            await node.empty(client)
    (DISK / "crishim-written").unlink()


def device(folder: Path) -> str:
    """The block device of a folder's file system, as io.max names it."""
    number = folder.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def read_below(scope: Path, name: str) -> set[str]:
    """What a file says in a container's scope, and in the cgroup that crun makes below it."""
    return {path.read_text().strip() for path in (scope / name, scope / "container" / name) if path.exists()}


async def until_under_pressure(client: CriClient, sandbox: str, container: str) -> None:
    """Return when the I/O pressure of a container and of its pod have been above zero. Raises `TimeoutError`."""
    async with asyncio.timeout(60):
        while True:
            stats = await usage(client, sandbox)
            own = {one.attributes.id: one.io.psi.Some.Total for one in stats.linux.containers}
            if stats.linux.io.psi.Some.Total > 0 and own[container] > 0:
                return
            await asyncio.sleep(0.1)


async def test_the_server_is_started_anew(node: Node) -> None:
    """Containers and their monitors go on without the server; the next one has them, beside newer ones."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
    with kubelets_pod(node, "life4") as pod:
        async with node.client() as client:
            sandbox = await client.run_sandbox(pod.config)
            older = await run_container(client, node, sandbox, pod, "older", "sh", "-c", "exec sleep 600")
        node.kill()
        node.start()
        async with node.client() as client:
            newer = await run_container(client, node, sandbox, pod, "newer")
            for container in (older, newer):
                assert pb.CONTAINER_RUNNING == (await client.container_status(container)).state
                assert 0 == (await client.exec_sync(container, ("true",))).exit_code
            await client.stop_container(older, 0)
            assert 137 == (await client.container_status(older)).exit_code
            await node.empty(client)
            await until(lambda: not pod.scopes())
    assert set() == node.traces()


async def test_a_limit_below_what_is_used(node: Node) -> None:
    """It is refused with what is used; nothing is killed, and no limit of the same request is set."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "life5") as pod:
            sandbox = await client.run_sandbox(pod.config)
            fills = ("sh", "-c", "dd if=/dev/zero of=/dev/shm/filled bs=1M count=40; : > /dev/shm/done; exec sleep 600")
            container = await run_container(client, node, sandbox, pod, "c", *fills, limits=LIMITS)
            done = ("sh", "-c", "while ! [ -e /dev/shm/done ]; do sleep 0.1; done")
            assert 0 == (await client.exec_sync(container, done, 60)).exit_code
            before = limits_of(pod.scope(container))
            change = pb.LinuxContainerResources(memory_limit_in_bytes=16 * MIB, cpu_quota=20_000, cpu_period=100_000)
            request = pb.UpdateContainerResourcesRequest(container_id=container, linux=change)
            with pytest.raises(CallError, match="bytes of memory, and must be below the new limit of 16777216") as caught:
                await client._ask("UpdateContainerResources", request, pb.UpdateContainerResourcesResponse)
            assert Code.FAILED_PRECONDITION == caught.value.code
            assert before == limits_of(pod.scope(container))
            assert pb.CONTAINER_RUNNING == (await client.container_status(container)).state
            request.linux.memory_limit_in_bytes = 60 * MIB
            await client._ask("UpdateContainerResources", request, pb.UpdateContainerResourcesResponse)
            assert [str(60 * MIB), "20000 100000"] == limits_of(pod.scope(container))
            await node.empty(client)
