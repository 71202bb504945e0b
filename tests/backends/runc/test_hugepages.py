"""Limits of huge pages, as the kubelet sends them, on a node whose kernel has their controller."""

from pathlib import Path

import pytest

from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.cgroups import own_folder
from crishim.linux.processes import recorded
from crishim.model.container import LinuxContainerConfig
from crishim.model.resources import HugepageLimit, Resources
from crishim.pods.host import cgroup_v2, host, page_sizes
from tests.backends.runc.world import needs, node, without_hybrid

pytestmark = [pytest.mark.node, needs("runc", "crun", "conmon", "busybox", "unshare", "nsenter", "ip")]

ROOT = Path("/sys/fs/cgroup")


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
