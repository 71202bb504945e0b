"""What a request asks for, held against what a backend keeps. Nothing that protects a pod is ever silently ignored.

The two tables below say when a field counts as set. What the kubelet sends for every plain pod is no wish, and the tables know
it: uid 0, its usual masked and readonly paths and its own mounts, pid mode CONTAINER, user namespace mode NODE, empty hugepage
limits, and seccomp or AppArmor profiles that are RuntimeDefault or Unconfined. A test plays the kubelet's plainest pod against
a backend that honours nothing.
"""

from collections.abc import Collection, Mapping
from typing import Final

from crishim.errors import InvalidArgument
from crishim.model.container import ContainerSpec, MountPropagation
from crishim.model.features import Honour
from crishim.model.resources import Resources
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import (
    Capability,
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    SELinuxOption,
    SupplementalGroupsPolicy,
)

USUAL_PATHS: Final = frozenset({
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
})  # fmt: skip
"""The paths that every pod with the default /proc mount asks to have masked or read-only."""

USUAL_MOUNTS: Final = frozenset(
    {
        "/etc/hosts",
        "/dev/termination-log",
        "/var/run/secrets/kubernetes.io/serviceaccount",
    }
)
"""The mounts that the kubelet adds to every pod by itself."""

_NO_SECURITY: Final = LinuxContainerSecurityContext()


def _profile_set(profile: SecurityProfile | None) -> bool:
    return profile is not None and profile.profile_type is ProfileType.LOCALHOST


def _namespaces_set(options: NamespaceOption) -> Mapping[Honour, bool]:
    userns = options.userns_options
    return {
        Honour.HOST_NETWORK: options.network is NamespaceMode.NODE,
        Honour.HOST_PID: options.pid is NamespaceMode.NODE,
        Honour.TARGET_PID: options.pid is NamespaceMode.TARGET,
        Honour.HOST_IPC: options.ipc is NamespaceMode.NODE,
        Honour.USER_NAMESPACE: userns is not None and userns.mode is not NamespaceMode.NODE,
    }


def _security_set(security: LinuxContainerSecurityContext | LinuxSandboxSecurityContext) -> Mapping[Honour, bool]:
    strict = security.supplemental_groups_policy is SupplementalGroupsPolicy.STRICT
    return {
        Honour.USER: bool(security.run_as_user) or bool(security.run_as_group),
        Honour.SUPPLEMENTAL_GROUPS: bool(security.supplemental_groups),
        Honour.STRICT_GROUPS: strict,
        Honour.PRIVILEGED: security.privileged,
        Honour.READONLY_ROOTFS: security.readonly_rootfs,
        Honour.SECCOMP: _profile_set(security.seccomp),
        Honour.APPARMOR: _profile_set(security.apparmor),
        Honour.SELINUX: security.selinux_options not in {None, SELinuxOption()},
        **_namespaces_set(security.namespace_options),
    }


def _limits_set(limits: Resources) -> Mapping[Honour, bool]:
    return {
        Honour.MEMORY_LIMIT: limits.memory_limit_in_bytes > 0 or limits.memory_swap_limit_in_bytes > 0,
        Honour.CPU_QUOTA: limits.cpu_quota > 0,
        Honour.CPUSET: bool(limits.cpuset_cpus or limits.cpuset_mems),
        Honour.HUGEPAGES: any(limit.limit for limit in limits.hugepage_limits),
        Honour.UNIFIED: bool(limits.unified),
    }


def sandbox_wishes(spec: SandboxSpec) -> Mapping[Honour, bool]:
    """Each honour, and whether this sandbox asks for it."""
    config = spec.config
    linux = config.linux
    return {
        **_security_set(linux.security_context),
        Honour.SYSCTLS: bool(linux.sysctls),
        Honour.HOST_PORTS: any(mapping.host_port for mapping in config.port_mappings),
    }


def container_wishes(spec: ContainerSpec) -> Mapping[Honour, bool]:
    """Each honour, and whether this container asks for it."""
    security = spec.security or _NO_SECURITY
    mounts = spec.mounts
    return {
        **_security_set(security),
        Honour.USER: spec.user.user not in {"", "0", "root"} or spec.user.group not in {"", "0", "root"},
        Honour.CAPABILITIES: security.capabilities != Capability(),
        Honour.NO_NEW_PRIVS: security.no_new_privs,
        Honour.MASKED_PATHS: bool({*security.masked_paths, *security.readonly_paths} - USUAL_PATHS),
        **_limits_set(spec.resources),
        Honour.MOUNTS: any(mount.host_path and mount.container_path not in USUAL_MOUNTS for mount in mounts),
        Honour.READONLY_MOUNTS: any(mount.readonly and mount.container_path not in USUAL_MOUNTS for mount in mounts),
        Honour.RECURSIVE_READONLY_MOUNTS: any(mount.recursive_read_only for mount in mounts),
        Honour.MOUNT_PROPAGATION: any(mount.propagation is not MountPropagation.PRIVATE for mount in mounts),
        Honour.IDMAP_MOUNTS: any(mount.uid_mappings or mount.gid_mappings for mount in mounts),
        Honour.IMAGE_MOUNTS: any(mount.image and mount.image.image for mount in mounts),
        Honour.MOUNT_OPTIONS: any(mount.mount_options for mount in mounts),
        Honour.DEVICES: bool(spec.devices),
        Honour.CDI_DEVICES: bool(spec.cdi_devices),
        Honour.STDIN: spec.stdin,
        Honour.TTY: spec.tty,
    }


def check_sandbox(spec: SandboxSpec, honours: Collection[Honour], ignored: Collection[Honour] = ()) -> None:
    """Refuse a sandbox whose wishes a backend does not keep; `ignored` are what the configuration calls unsafe to ignore."""
    _check(sandbox_wishes(spec), honours, ignored)


def check_container(spec: ContainerSpec, honours: Collection[Honour], ignored: Collection[Honour] = ()) -> None:
    """Refuse a container whose wishes a backend does not keep."""
    _check(container_wishes(spec), honours, ignored)


def _check(wishes: Mapping[Honour, bool], honours: Collection[Honour], ignored: Collection[Honour]) -> None:
    for honour, wished in wishes.items():
        if wished and honour not in honours and honour not in ignored:
            raise InvalidArgument(f"config.{honour.value}", "is set, and this backend cannot honour it")
