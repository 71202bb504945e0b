"""Limits -> linux.resources -> files of a cgroup, and the path of a container's cgroup."""

import posixpath
from collections.abc import Mapping
from typing import Any

from crishim.errors import InvalidArgument
from crishim.model.resources import Resources
from crishim.oci.facts import DeviceNode, Host

__all__ = ["cgroup_files"]

DEFAULT_PARENT = "/crishim"
"""The parent of the cgroups of containers whose pod has none."""

_DEFAULT_PERIOD = 100_000
_MIN_SHARES, _MAX_SHARES = 2, 262_144


def resources(limits: Resources, host: Host) -> dict[str, Any]:
    """The limits of a request, without zero and empty ones. A memory limit without a swap limit allows no swap beyond it.

    A hugepage limit of zero allows none: the kubelet sends it for each page size that a container does not request. All are
    left out where the machine has no such controller, those of zero where it has no such pages, and unified ones on cgroup v1.
    """
    result: dict[str, Any] = {}
    cpu = {
        "shares": limits.cpu_shares,
        "quota": limits.cpu_quota,
        "period": limits.cpu_period,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    if limited := {name: value for name, value in cpu.items() if value}:
        result["cpu"] = limited
    memory: dict[str, int] = {}
    if limits.memory_limit_in_bytes:
        memory["limit"] = limits.memory_limit_in_bytes
    if host.swap and (swap := limits.memory_swap_limit_in_bytes or max(0, limits.memory_limit_in_bytes)):
        memory["swap"] = swap
    if memory:
        result["memory"] = memory
    wanted = [page for page in limits.hugepage_limits if page.limit or page.page_size in host.page_sizes]
    if wanted and host.page_sizes:
        result["hugepageLimits"] = [{"pageSize": page.page_size, "limit": page.limit} for page in wanted]
    if limits.unified and host.cgroup_v2:
        result["unified"] = dict(limits.unified)
    return result


def cgroup_files(resources: Mapping[str, Any], *, v2: bool) -> dict[str, str]:
    """The files of a container's cgroup and their contents for the CPU, memory and hugepage limits of linux.resources, in the
    order in which a new cgroup takes them; for runtimes whose engine does not read config.json.

    v2's weight of CPU shares is Kubernetes's (KEP-2254): 2 to 262144 shares are 1 to 10000; more shares are 10000. A period
    without a quota has the quota `max`, as in runc. v2's swap limit does not include the memory, as that of linux.resources
    does. Raises `InvalidArgument` for a swap limit without a memory limit, or below it, as runc does.
    """
    cpu, memory = resources.get("cpu", {}), resources.get("memory", {})
    shares, quota, limit, swap = cpu.get("shares"), cpu.get("quota"), memory.get("limit"), memory.get("swap")
    files = {"cpuset.cpus": cpu.get("cpus"), "cpuset.mems": cpu.get("mems")}
    period = cpu.get("period")
    if v2:
        files["cpu.weight"] = shares and _weight(shares)
        files["cpu.max"] = (quota or period) and f"{quota if quota and quota > 0 else 'max'} {period or _DEFAULT_PERIOD}"
        files["memory.max"] = limit and (limit if limit > 0 else "max")
        files["memory.swap.max"] = swap and (_swap_alone(swap, limit or 0) if swap > 0 else "max")
        pages = "max"
    else:
        files |= {"cpu.shares": shares, "cpu.cfs_period_us": period, "cpu.cfs_quota_us": quota}
        files |= {"memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": swap}
        pages = "limit_in_bytes"
    files |= {f"hugetlb.{page['pageSize']}.{pages}": str(page["limit"]) for page in resources.get("hugepageLimits", ())}
    return {file: str(value) for file, value in files.items() if value or value == "0"}


def _weight(shares: int) -> int:
    return 1 + (min(max(_MIN_SHARES, shares), _MAX_SHARES) - _MIN_SHARES) * 9999 // (_MAX_SHARES - _MIN_SHARES)


def _swap_alone(swap: int, limit: int) -> str:
    """v2's swap limit, of a limit of memory and swap."""
    if not 0 < limit <= swap:
        field = "linux.resources.memory_swap_limit_in_bytes"
        raise InvalidArgument(field, f"{swap} is not a limit of memory and swap beside the memory limit {limit}")
    return str(swap - limit)


def device_rules(devices: tuple[DeviceNode, ...], *, everything: bool) -> list[dict[str, Any]]:
    """The device cgroup: everything, or only the requested devices. The runtime adds its default devices itself."""
    if everything:
        return [{"allow": True, "access": "rwm"}]
    allowed = [
        {"allow": True, "type": node.kind, "major": node.major, "minor": node.minor, "access": node.access} for node in devices
    ]
    return [{"allow": False, "access": "rwm"}, *allowed]


def device_nodes(devices: tuple[DeviceNode, ...]) -> list[dict[str, Any]]:
    """linux.devices."""
    return [
        {
            "path": node.path,
            "type": node.kind,
            "major": node.major,
            "minor": node.minor,
            "fileMode": node.mode,
            "uid": node.uid,
            "gid": node.gid,
        }
        for node in devices
    ]


def cgroups_path(parent: str, container_id: str, *, systemd: bool) -> str:
    """linux.cgroupsPath: `slice:prefix:name` for systemd, else a path below the pod's cgroup."""
    if systemd:
        return f"{posixpath.basename(parent) or 'system.slice'}:crishim:{container_id}"
    return posixpath.join(parent or DEFAULT_PARENT, container_id)


def oom_score_adj(wanted: int, host: Host) -> int:
    """The nearest value that can be set: without CAP_SYS_RESOURCE it cannot be lower than this process's own."""
    return wanted if host.lowest_oom_score_adj is None else max(wanted, host.lowest_oom_score_adj)
