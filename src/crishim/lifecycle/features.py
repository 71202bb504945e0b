"""Compares the fields that a request sets with the features that a backend supports. A field that protects a pod is never
silently ignored.

The two functions below define when a field counts as set. What the kubelet sends for every plain pod does not count: uid 0,
the default masked and readonly paths and the kubelet's own mounts, pid mode CONTAINER, user namespace mode NODE, empty
hugepage limits, and seccomp that is RuntimeDefault for the sandbox or Unconfined for containers. A test runs the kubelet's
plainest pod against a backend that supports nothing.

The sandbox's RuntimeDefault applies to the pause container, which runs no code of the pod. A container has RuntimeDefault only
if the pod sets it, or the administrator by the kubelet's `seccompDefault`, so there it counts as set, for seccomp and
AppArmor.
"""

from collections.abc import Collection, Mapping
from typing import Final

from crishim.errors import InvalidArgument
from crishim.model.container import ContainerSpec, MountPropagation
from crishim.model.features import USUAL_MOUNTS, USUAL_UNIFIED, Feature
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
"""The paths that every pod with the default /proc mount has masked or read-only."""

_NO_SECURITY: Final = LinuxContainerSecurityContext()


def _profile_set(profile: SecurityProfile | None, *plain: ProfileType) -> bool:
    return profile is not None and profile.profile_type not in {ProfileType.UNCONFINED, *plain}


def _namespaces_set(options: NamespaceOption) -> Mapping[Feature, bool]:
    userns = options.userns_options
    return {
        Feature.HOST_NETWORK: options.network is NamespaceMode.NODE,
        Feature.HOST_PID: options.pid is NamespaceMode.NODE,
        Feature.TARGET_PID: options.pid is NamespaceMode.TARGET,
        Feature.HOST_IPC: options.ipc is NamespaceMode.NODE,
        Feature.USER_NAMESPACE: userns is not None and userns.mode is not NamespaceMode.NODE,
    }


def _security_set(security: LinuxContainerSecurityContext | LinuxSandboxSecurityContext) -> Mapping[Feature, bool]:
    strict = security.supplemental_groups_policy is SupplementalGroupsPolicy.STRICT
    return {
        Feature.USER: bool(security.run_as_user) or bool(security.run_as_group),
        Feature.SUPPLEMENTAL_GROUPS: bool(security.supplemental_groups),
        Feature.STRICT_GROUPS: strict,
        Feature.PRIVILEGED: security.privileged,
        Feature.READONLY_ROOTFS: security.readonly_rootfs,
        Feature.SELINUX: security.selinux_options not in {None, SELinuxOption()},
        **_namespaces_set(security.namespace_options),
    }


def _limits_set(limits: Resources) -> Mapping[Feature, bool]:
    return {
        Feature.MEMORY_LIMIT: limits.memory_limit_in_bytes > 0 or limits.memory_swap_limit_in_bytes > 0,
        Feature.CPU_QUOTA: limits.cpu_quota > 0,
        Feature.CPUSET: bool(limits.cpuset_cpus or limits.cpuset_mems),
        Feature.HUGEPAGES: any(limit.limit for limit in limits.hugepage_limits),
        Feature.UNIFIED: bool(limits.unified.keys() - USUAL_UNIFIED),
    }


def sandbox_features(spec: SandboxSpec) -> Mapping[Feature, bool]:
    """Each feature, and whether this sandbox sets it."""
    config = spec.config
    linux = config.linux
    return {
        **_security_set(linux.security_context),
        Feature.SECCOMP: _profile_set(linux.security_context.seccomp, ProfileType.RUNTIME_DEFAULT),
        Feature.APPARMOR: _profile_set(linux.security_context.apparmor, ProfileType.RUNTIME_DEFAULT),
        Feature.SYSCTLS: bool(linux.sysctls),
        Feature.HOST_PORTS: any(mapping.host_port for mapping in config.port_mappings),
    }


def container_features(spec: ContainerSpec) -> Mapping[Feature, bool]:
    """Each feature, and whether this container sets it."""
    security = spec.security or _NO_SECURITY
    mounts = spec.mounts
    return {
        **_security_set(security),
        Feature.SECCOMP: _profile_set(security.seccomp),
        Feature.APPARMOR: _profile_set(security.apparmor),
        Feature.USER: spec.user.user not in {"", "0", "root"} or spec.user.group not in {"", "0", "root"},
        Feature.CAPABILITIES: security.capabilities != Capability(),
        Feature.AMBIENT_CAPABILITIES: bool(security.capabilities.add_ambient_capabilities),
        Feature.NO_NEW_PRIVS: security.no_new_privs,
        Feature.MASKED_PATHS: bool({*security.masked_paths, *security.readonly_paths} - USUAL_PATHS),
        **_limits_set(spec.resources),
        Feature.MOUNTS: any(mount.host_path and mount.container_path not in USUAL_MOUNTS for mount in mounts),
        Feature.READONLY_MOUNTS: any(mount.readonly and mount.container_path not in USUAL_MOUNTS for mount in mounts),
        Feature.RECURSIVE_READONLY_MOUNTS: any(mount.recursive_read_only for mount in mounts),
        Feature.MOUNT_PROPAGATION: any(mount.propagation is MountPropagation.HOST_TO_CONTAINER for mount in mounts),
        Feature.BIDIRECTIONAL_MOUNTS: any(mount.propagation is MountPropagation.BIDIRECTIONAL for mount in mounts),
        Feature.IDMAP_MOUNTS: any(mount.uid_mappings or mount.gid_mappings for mount in mounts),
        Feature.IMAGE_MOUNTS: any(mount.image and mount.image.image for mount in mounts),
        Feature.MOUNT_OPTIONS: any(mount.mount_options for mount in mounts),
        Feature.DEVICES: bool(spec.devices),
        Feature.CDI_DEVICES: bool(spec.cdi_devices),
        Feature.STDIN: spec.stdin,
        Feature.TTY: spec.tty,
        Feature.OCI_CHANGES: bool(spec.oci_changes.keys() - {"annotations"}),  # which the spec has, too
    }


def check_sandbox(spec: SandboxSpec, supported: Collection[Feature], ignored: Collection[Feature] = ()) -> None:
    """Raise `InvalidArgument` if a sandbox sets a field that is not supported. `ignored` are the features that the
    configuration allows to be ignored.
    """
    check_features(sandbox_features(spec), supported, ignored)


def check_container(spec: ContainerSpec, supported: Collection[Feature], ignored: Collection[Feature] = ()) -> None:
    """Raise `InvalidArgument` if a container sets a field that is not supported; `ignored` as in `check_sandbox`."""
    check_features(container_features(spec), supported, ignored)


def check_features(
    requested: Mapping[Feature, bool], supported: Collection[Feature], ignored: Collection[Feature] = ()
) -> None:
    """Raise `InvalidArgument` for the first requested feature that is neither supported nor ignored."""
    for feature, is_set in requested.items():
        if is_set and feature not in supported and feature not in ignored:
            raise InvalidArgument(f"config.{feature.value}", "is set, and this backend does not support it")
