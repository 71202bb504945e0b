"""CgroupUsage of real containers on an engine, and cgroup files that the engine has no word for."""

import asyncio
from pathlib import Path

import pytest

from crishim.backends.docker.observed import Known
from crishim.backends.docker.options import EngineFacts
from crishim.backends.docker.usage import folder_for, write_unified
from crishim.errors import InvalidArgument
from crishim.model.container import LinuxContainerConfig
from crishim.model.resources import Resources
from crishim.model.security import LinuxContainerSecurityContext
from tests.backends.docker.node import OPTIONS, Node
from tests.backends.docker.world import Dockerd, needs

BUSY = ("sh", "-c", "dd if=/dev/zero of=/written bs=1k count=300 2>/dev/null; echo written; while :; do :; done")


@pytest.mark.node
@needs("dockerd", "busybox", "catatonit")
async def test_usage(engine: Dockerd, tmp_path: Path) -> None:
    """A container has CPU time, a working set below its limit, processes and a writable layer; its pod has their sum."""
    async with Node(tmp_path, engine.socket).running() as node:
        sandbox = await node.sandbox()
        limits = LinuxContainerConfig(
            resources=Resources(memory_limit_in_bytes=64 << 20),
            security_context=LinuxContainerSecurityContext(namespace_options=OPTIONS),
        )
        container = await node.container(sandbox, "main", BUSY, linux=limits)
        await node.until_logged("main", 1)
        usage = (await node.services.stats.container(container)).usage
        assert usage.memory is not None
        assert 64 << 20 == (usage.memory.working_set_bytes or 0) + (usage.memory.available_bytes or 0)
        assert usage.writable_layer is not None
        assert (usage.writable_layer.used_bytes or 0) >= 300 << 10
        pod = (await node.services.stats.sandbox(sandbox)).usage
        assert pod.process is not None
        assert 2 <= (pod.process.process_count or 0)
        assert pod.network is not None
        (metrics,) = await node.services.stats.metrics()
        (measured,) = metrics.container_metrics
        assert {"container_cpu_usage_seconds_total", "container_memory_working_set_bytes"} <= {m.name for m in measured.metrics}
        await node.services.containers.stop(container, 0)
        ended = (await node.services.stats.container(container)).usage
        assert ended.writable_layer is not None
        await node.clear()


@pytest.mark.node
@needs("dockerd", "busybox", "catatonit")
async def test_usage_of_many_is_quick(engine: Dockerd, tmp_path: Path) -> None:
    """CgroupUsage of all containers at once ask the engine for each of them once, and never again."""
    async with Node(tmp_path, engine.socket).running() as node:
        sandbox = await node.sandbox()
        containers = [await node.container(sandbox, f"c{number}", BUSY) for number in range(3)]
        await asyncio.gather(*(node.backend.container_usage(container) for container in containers))
        assert all(node.backend._known[container].upper for container in containers)
        await node.clear()


@pytest.mark.parametrize(
    ("systemd", "expected"),
    [(False, "/kubepods/pod1/e"), (True, "/kubepods.slice/kubepods-pod1.slice/docker-e.scope")],
)
def test_where_a_cgroup_lies(systemd: bool, expected: str) -> None:
    """Below the pod's cgroup, by path or by systemd's units."""
    known = Known(engine_id="e", parent="kubepods-pod1.slice" if systemd else "/kubepods/pod1")
    assert expected == folder_for(known, EngineFacts(systemd_cgroup=systemd))


def test_unified_files_are_written(tmp_path: Path) -> None:
    """Files of cgroup v2 are written by name, in the container's own cgroup and nowhere else."""
    folder = tmp_path / "pod" / "e"
    folder.mkdir(parents=True)
    known = Known(engine_id="e", parent="/pod")
    write_unified(known, {"memory.high": "100"}, EngineFacts(), tmp_path)
    assert "100" == (folder / "memory.high").read_text()
    for name in ("../memory.high", ".hidden", "a/b"):
        with pytest.raises(InvalidArgument):
            write_unified(known, {name: "1"}, EngineFacts(), tmp_path)
    with pytest.raises(InvalidArgument, match=r"memory\.high"):
        write_unified(Known(engine_id="gone", parent="/pod"), {"memory.high": "1"}, EngineFacts(), tmp_path)
