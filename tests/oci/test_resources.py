"""Tests of the files of a cgroup."""

from typing import Any

import pytest

from crishim.errors import InvalidArgument
from crishim.oci.resources import cgroup_files

LIMITS = {
    "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
    "memory": {"limit": 1 << 20, "swap": 3 << 20},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (
            LIMITS,
            {
                "cpuset.cpus": "0",
                "cpuset.mems": "0",
                "cpu.weight": "39",
                "cpu.max": "50000 100000",
                "memory.max": "1048576",
                "memory.swap.max": "2097152",
                "hugetlb.2MB.max": "0",
            },
        ),
        ({"cpu": {"shares": 2}}, {"cpu.weight": "1"}),
        ({"cpu": {"shares": 262144}}, {"cpu.weight": "10000"}),
        ({"cpu": {"shares": 500_000}}, {"cpu.weight": "10000"}),
        ({"cpu": {"quota": -1}}, {"cpu.max": "max 100000"}),
        ({"cpu": {"period": 50_000}}, {"cpu.max": "max 50000"}),
        ({"memory": {"limit": -1, "swap": -1}}, {"memory.max": "max", "memory.swap.max": "max"}),
        ({"memory": {"limit": 4096, "swap": 4096}}, {"memory.max": "4096", "memory.swap.max": "0"}),
        ({}, {}),
    ],
)
def test_files_of_v2(resources: dict[str, Any], expected: dict[str, str]) -> None:
    """Limits are written as cgroup v2 has them: a weight, a quota with its period, and swap without the memory."""
    assert expected == cgroup_files(resources, v2=True)


@pytest.mark.parametrize("memory", [{"swap": 4096}, {"limit": -1, "swap": 4096}, {"limit": 8192, "swap": 4096}])
def test_swap_without_a_memory_limit(memory: dict[str, int]) -> None:
    """A limit of memory and swap that has no memory limit, or a higher one, is refused on v2 and not lifted."""
    with pytest.raises(InvalidArgument, match="memory_swap_limit_in_bytes"):
        cgroup_files({"memory": memory}, v2=True)


def test_files_of_v1() -> None:
    """The files of v1 have the values of linux.resources; the memory limit is set before that of memory and swap."""
    expected = [
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("cpu.shares", "1024"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("memory.limit_in_bytes", "1048576"),
        ("memory.memsw.limit_in_bytes", "3145728"),
        ("hugetlb.2MB.limit_in_bytes", "0"),
    ]
    assert expected == list(cgroup_files(LIMITS, v2=False).items())
