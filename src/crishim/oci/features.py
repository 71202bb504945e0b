"""The features that a config.json asks for that containerd or CRI-O has written: `lifecycle.features`, read from the bundle.

containerd and CRI-O convert a pod's fields before a shim sees them, and add defaults of their own. What they write for every
plain pod does not count: their capabilities, masked and readonly paths in /proc and /sys, the pod's files, their AppArmor
profile. Nor does what config.json does not show: supplemental groups, a privileged container, and the node's or another
container's namespaces, which are paths as the pod's own.
"""

from collections.abc import Mapping
from typing import Any, Final

from crishim.model.features import USUAL_MOUNTS, USUAL_UNIFIED, Feature
from crishim.oci.facts import DEFAULT_CAPABILITIES

CRIO_KIND: Final = "io.kubernetes.cri-o.ContainerType"
"""CRI-O's annotation of containers and sandboxes."""

_KINDS: Final = ("io.kubernetes.cri.container-type", CRIO_KIND)
"""containerd's annotation and CRI-O's."""

_CRIO_LACKS: Final = frozenset({"CAP_AUDIT_WRITE", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SYS_CHROOT"})
_USUAL_CAPABILITIES: Final = frozenset({frozenset(DEFAULT_CAPABILITIES), frozenset(DEFAULT_CAPABILITIES) - _CRIO_LACKS})
"""Containerd's, and CRI-O's (crio.conf(5), default_capabilities)."""

_APPARMOR: Final = frozenset({"", "unconfined", "cri-containerd.apparmor.d", "crio-default"})
_USUAL_MOUNTS: Final = frozenset(
    {
        *USUAL_MOUNTS,
        *("/etc/hostname", "/etc/resolv.conf", "/dev/shm"),  # noqa: S108 - the container's
        *("/run/.containerenv", "/run/secrets", "/sys/fs/cgroup", "/run/secrets/kubernetes.io/serviceaccount"),
    }
)
_USUAL_PATHS: Final = ("/proc/", "/sys/")
_SHARED: Final = frozenset({"shared", "rshared"})
_SLAVE: Final = frozenset({"slave", "rslave"})


def of_a_pod(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a container of a pod, and not of its sandbox or of a client such as `ctr`."""
    annotations = config.get("annotations") or {}
    return any(annotations.get(kind) == "container" for kind in _KINDS)


def config_features(config: Mapping[str, Any]) -> Mapping[Feature, bool]:
    """Each feature that a config.json shows, and whether it is set. Raises `AttributeError` or `TypeError` for wrong types."""
    process, linux, root = (config.get(name) or {} for name in ("process", "linux", "root"))
    return {
        **_process(process),
        **_namespaces(linux),
        **_limits(linux.get("resources") or {}),
        **_mounts(config),
        **_rest(linux, root),
    }


def _process(process: Mapping[str, Any]) -> Mapping[Feature, bool]:
    capabilities = process.get("capabilities") or {}
    bounding = frozenset(capabilities.get("bounding") or ())
    user = process.get("user") or {}
    return {
        Feature.USER: bool(user.get("uid") or user.get("gid")),
        Feature.CAPABILITIES: bool(capabilities) and bounding not in _USUAL_CAPABILITIES,
        Feature.AMBIENT_CAPABILITIES: bool(capabilities.get("ambient")),
        Feature.NO_NEW_PRIVS: bool(process.get("noNewPrivileges")),
        Feature.APPARMOR: process.get("apparmorProfile", "") not in _APPARMOR,
        Feature.SELINUX: bool(process.get("selinuxLabel")),
        Feature.TTY: bool(process.get("terminal")),
    }


def _namespaces(linux: Mapping[str, Any]) -> Mapping[Feature, bool]:
    kinds = {one.get("type") for one in linux.get("namespaces") or ()}
    return {
        Feature.HOST_NETWORK: "network" not in kinds,
        Feature.HOST_PID: "pid" not in kinds,
        Feature.HOST_IPC: "ipc" not in kinds,
        Feature.USER_NAMESPACE: "user" in kinds,
    }


def _limits(resources: Mapping[str, Any]) -> Mapping[Feature, bool]:
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    return {
        Feature.MEMORY_LIMIT: any((memory.get(name) or 0) > 0 for name in ("limit", "swap")),
        Feature.CPU_QUOTA: (cpu.get("quota") or 0) > 0,
        Feature.CPUSET: bool(cpu.get("cpus") or cpu.get("mems")),
        Feature.HUGEPAGES: any(limit.get("limit") for limit in resources.get("hugepageLimits") or ()),
        Feature.UNIFIED: bool((resources.get("unified") or {}).keys() - USUAL_UNIFIED),
    }


def _mounts(config: Mapping[str, Any]) -> Mapping[Feature, bool]:
    binds = [
        (mount, frozenset(mount.get("options") or ()))
        for mount in config.get("mounts") or ()
        if {"bind", "rbind"} & {mount.get("type"), *(mount.get("options") or ())}
        and mount.get("destination") not in _USUAL_MOUNTS
    ]
    return {
        Feature.MOUNTS: bool(binds),
        Feature.READONLY_MOUNTS: any("ro" in options for _, options in binds),
        Feature.RECURSIVE_READONLY_MOUNTS: any("rro" in options for _, options in binds),
        Feature.MOUNT_PROPAGATION: any(_SLAVE & options for _, options in binds),
        Feature.BIDIRECTIONAL_MOUNTS: any(_SHARED & options for _, options in binds),
        Feature.IDMAP_MOUNTS: any(mount.get("uidMappings") or mount.get("gidMappings") for mount, _ in binds),
    }


def _rest(linux: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[Feature, bool]:
    hidden = (*(linux.get("maskedPaths") or ()), *(linux.get("readonlyPaths") or ()))
    return {
        Feature.READONLY_ROOTFS: bool(root.get("readonly")),
        Feature.SECCOMP: bool(linux.get("seccomp")),
        Feature.MASKED_PATHS: not all(path.startswith(_USUAL_PATHS) for path in hidden),
        Feature.DEVICES: bool(linux.get("devices")),
    }
