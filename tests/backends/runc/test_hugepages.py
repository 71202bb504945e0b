"""Limits of huge pages, as the kubelet sends them, on a node whose kernel has their controller."""

import sys
from pathlib import Path

import pytest

from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.cgroups import own_folder
from crishim.linux.processes import recorded
from crishim.model.container import LinuxContainerConfig, Mount
from crishim.model.resources import HugepageLimit, Resources
from crishim.pods.host import cgroup_v2, host, page_sizes
from crishim.testing.conformance.candidate import patiently
from tests.backends.runc.world import needs, node, without_hybrid

pytestmark = [pytest.mark.node, needs("runc", "crun", "conmon", "busybox", "unshare", "nsenter", "ip")]

ROOT = Path("/sys/fs/cgroup")
FREE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
MAPS = """
import mmap, sys
for pages in (2, 1):
    memory = mmap.mmap(-1, pages << 21, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)  # MAP_HUGETLB
    for page in range(pages):
        memory[page << 21] = 1
    print(pages, "more", flush=True)
    globals()[str(pages)] = memory
"""
"""Uses two huge pages, and then a third."""


def limit_of(pid: int, size: str) -> str:
    """The limit of a process's cgroup for a page size, in bytes."""
    folder = own_folder(Path(f"/proc/{pid}/cgroup").read_text(), "hugetlb", v2=cgroup_v2()).lstrip("/")
    file = (
        ROOT / folder / f"hugetlb.{size}.max" if cgroup_v2() else ROOT / "hugetlb" / folder / f"hugetlb.{size}.limit_in_bytes"
    )
    return file.read_text().strip()


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_pages_of_no_request_are_none(runtime: str, tmp_path: Path) -> None:
    """A container has the huge pages that it requests, and none of the other sizes, for which the kubelet sends zero."""
    without_hybrid()
    if "2MB" not in host().page_sizes:
        pytest.skip("needs the hugetlb controller: a kernel with CONFIG_CGROUP_HUGETLB (User Mode Linux has no huge pages)")
    expected = {size: 4 << 20 if size == "2MB" else 0 for size in page_sizes()}
    limits = Resources(hugepage_limits=tuple(HugepageLimit(size, limit) for size, limit in expected.items()))
    async with node(tmp_path, runtime=runtime) as world:
        sandbox = await world.run_sandbox()
        container = await world.run_container(sandbox, "main", "sleep", "60", linux=LinuxContainerConfig(resources=limits))
        first = recorded(tmp_path / "run" / "containers" / container / FIRST_PROCESS)
        assert first is not None
        assert expected == {size: int(limit_of(first.pid, size)) for size in expected}
        assert len(expected) > 1


def free_pages() -> int:
    """The free huge pages of 2 MB of this machine."""
    return int(FREE.read_text()) if FREE.exists() else 0


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_a_process_gets_its_pages_and_no_more(runtime: str, tmp_path: Path) -> None:
    """With a limit of two huge pages a process uses two, and the kernel refuses a third or kills the process for it."""
    without_hybrid()
    if free_pages() < 3:
        pytest.skip("needs three free huge pages of 2 MB: sysctl vm.nr_hugepages=3")
    limits = Resources(hugepage_limits=(HugepageLimit("2MB", 2 << 21),))
    argv = ("busybox", "chroot", "/node", str(Path(sys.executable).resolve()), "-c", MAPS)  # noqa: ASYNC240
    async with node(tmp_path, runtime=runtime) as world:
        sandbox = await world.run_sandbox(log_directory=str(tmp_path / "logs"))
        container = await world.run_container(
            sandbox,
            "main",
            *argv,
            log_path="main.log",
            linux=LinuxContainerConfig(resources=limits),
            mounts=(Mount(container_path="/node", host_path="/", readonly=True),),
        )
        end = await patiently(world.backend.wait_container(container))
    assert 0 != end.code
    lines = (tmp_path / "logs" / "main.log").read_text().splitlines()
    assert ["2 more"] == [line.partition(" F ")[2] for line in lines if "stdout" in line]
