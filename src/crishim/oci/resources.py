"""Limits -> linux.resources, and the path of a container's cgroup."""

import posixpath
from typing import Any

from crishim.model.resources import Resources
from crishim.oci.facts import DeviceNode, Host

_DEFAULT_PARENT = "/crishim"


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
    return posixpath.join(parent or _DEFAULT_PARENT, container_id)


def oom_score_adj(wanted: int, host: Host) -> int:
    """The nearest value that can be set: without CAP_SYS_RESOURCE it cannot be lower than this process's own."""
    return wanted if host.lowest_oom_score_adj is None else max(wanted, host.lowest_oom_score_adj)
