"""What is left of an ended container, for engines without cgroups."""

import json
from pathlib import Path

import pytest

from crishim.linux.cgroups import Cgroups
from crishim.linux.processes import rooted_at
from crishim.pods.observer import PodObserver
from tests.backends.runc.world import needs
from tests.linux.rooted import rooted
from tests.shimv2.memory import MemoryRuntime

pytestmark = [pytest.mark.node, needs("busybox")]


def observer(folder: Path) -> PodObserver:
    return PodObserver(MemoryRuntime(), folder / "bundles", folder / "pods", Cgroups(v2=True, root=folder / "cgroup"))


def bundle(folder: Path, root: str, namespace: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    linux = {"cgroupsPath": "/pods/one", "namespaces": [namespace]}
    (folder / "config.json").write_text(json.dumps({"root": {"path": root}, "linux": linux}))
    return folder


@pytest.mark.parametrize("namespace", [{"type": "pid", "path": "/proc/1/ns/pid"}, {"type": "network"}])
async def test_without_a_cgroup_the_root_tells(tmp_path: Path, namespace: dict[str, str]) -> None:
    """In a shared PID namespace, or the node's, every process with the container's root is ended, and no other one."""
    with rooted(tmp_path / "one" / "rootfs") as own, rooted(tmp_path / "two" / "rootfs") as beside:
        observer(tmp_path).end_leftovers(bundle(tmp_path / "one", "rootfs", namespace))
        assert -9 == own.wait(10)
        assert [beside.pid] == [process.pid for process in rooted_at(tmp_path / "two" / "rootfs")]


async def test_a_cgroup_and_a_namespace_of_its_own_tell_more(tmp_path: Path) -> None:
    """Where the kernel ends the processes with their namespace, or a cgroup has them, the root is not looked at."""
    with rooted(tmp_path / "one" / "rootfs") as process:
        observer(tmp_path).end_leftovers(bundle(tmp_path / "one", "rootfs", {"type": "pid"}))
        (tmp_path / "cgroup" / "pods" / "one").mkdir(parents=True)
        (tmp_path / "cgroup" / "pods" / "one" / "cgroup.procs").touch()
        observer(tmp_path).end_leftovers(bundle(tmp_path / "one", "rootfs", {"type": "network"}))
        assert process.poll() is None


def test_the_nodes_root_is_nobodys(tmp_path: Path) -> None:
    """A container on the node's own files has no root by which its processes could be told from the node's."""
    assert [] == rooted_at(Path("/"))
    assert [] == rooted_at(tmp_path / "none")
