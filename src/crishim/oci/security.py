"""Capabilities, seccomp, AppArmor, SELinux, and masked paths."""

import re
from collections.abc import Collection
from typing import Any, Final

from crishim.errors import InvalidArgument, ResourceExhausted
from crishim.model.container import ContainerSpec, Mount
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import (
    Capability,
    LinuxContainerSecurityContext,
    NamespaceMode,
    ProfileType,
    SecurityProfile,
    SELinuxOption,
)
from crishim.oci.facts import CAPABILITIES, DEFAULT_CAPABILITIES, AppArmor, Host, Labels
from crishim.oci.seccomp import seccomp

_FIELD: Final = "config.linux.security_context"
_USER: Final = "system_u"
_FILES: Final = "container_file_t"
_CATEGORIES: Final = 1024
_LEVEL: Final = re.compile(r"s\d+(-s\d+)?(:c\d+([.,]c\d+)*)?")

APPARMOR_DEFAULT: Final = "crishim-default"
"""The AppArmor profile of containers that name none."""

MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""The masked and read-only paths for a request without a security context; any security context states its own."""


def privileged(spec: ContainerSpec) -> bool:
    """Whether the container is privileged."""
    return spec.security is not None and spec.security.privileged


def capabilities(spec: ContainerSpec, host: Host) -> dict[str, list[str]]:
    """process.capabilities. Privileged and ALL mean the bounding set of this process."""
    security = spec.security or LinuxContainerSecurityContext()
    granted = set(host.bounding) if security.privileged else _granted(security.capabilities, host)
    ambient = {_named(name, "add_ambient_capabilities") for name in security.capabilities.add_ambient_capabilities}
    granted |= ambient
    names = sorted(granted)
    sets = {"bounding": names, "effective": names, "permitted": names}
    if ambient:
        sets["ambient"] = sets["inheritable"] = sorted(ambient)
    return sets


def _granted(requested: Capability, host: Host) -> set[str]:
    granted = set(DEFAULT_CAPABILITIES) & host.bounding
    adds, drops = {name.upper() for name in requested.add_capabilities}, {name.upper() for name in requested.drop_capabilities}
    if "ALL" in adds:
        granted = set(host.bounding)
    if "ALL" in drops:
        granted = set()
    granted |= {_named(name, "add_capabilities") for name in adds - {"ALL"}}
    return granted - {_named(name, "drop_capabilities") for name in drops - {"ALL"}}


def _named(name: str, field: str) -> str:
    full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
    if full not in CAPABILITIES:
        raise InvalidArgument(f"{_FIELD}.capabilities.{field}", f"Linux has no capability {name!r}")
    return full


def seccomp_profile(spec: ContainerSpec, profiles: dict[str, str], host: Host) -> dict[str, Any] | None:
    """linux.seccomp; None for Unconfined, for the privileged, and for a request that names no profile."""
    security = spec.security
    if security is None or security.privileged or security.seccomp is None:
        return None
    granted = frozenset(capabilities(spec, host)["bounding"])
    field = f"{_FIELD}.seccomp"
    match security.seccomp.profile_type:
        case ProfileType.UNCONFINED:
            return None
        case ProfileType.LOCALHOST:
            text = profiles.get(security.seccomp.localhost_ref)
            if text is None:
                raise InvalidArgument(f"{field}.localhost_ref", f"{security.seccomp.localhost_ref!r} cannot be read")
            return seccomp(text, granted, host, field)
        case ProfileType.RUNTIME_DEFAULT:
            if not host.seccomp_default:
                raise InvalidArgument(field, "is RuntimeDefault, but this machine has no default profile (see `crishim check`)")
            return seccomp(host.seccomp_default, granted, host, field)


def apparmor_profile(spec: ContainerSpec, machine: AppArmor) -> str:
    """process.apparmorProfile; empty for none: Unconfined, and privileged containers that name no profile.

    RuntimeDefault is `APPARMOR_DEFAULT`, which is also used if no profile is named and the default is loaded. Raises
    `InvalidArgument` for a named profile that is not loaded.
    """
    security = spec.security or LinuxContainerSecurityContext()
    profile, field = security.apparmor, f"{_FIELD}.apparmor"
    if profile is None:
        return "" if security.privileged or machine.problem else APPARMOR_DEFAULT
    match profile.profile_type:
        case ProfileType.UNCONFINED:
            return ""
        case ProfileType.LOCALHOST:
            if profile.localhost_ref not in machine.loaded:
                why = "the kernel has no such profile" if machine.loaded else machine.problem
                raise InvalidArgument(f"{field}.localhost_ref", f"{profile.localhost_ref!r}: {why}")
            return profile.localhost_ref
        case ProfileType.RUNTIME_DEFAULT:
            if machine.problem:
                raise InvalidArgument(field, f"is RuntimeDefault: {machine.problem}")
            return "" if security.privileged else APPARMOR_DEFAULT


def named_level(sandbox: SandboxSpec) -> str:
    """The level that a pod names; empty for none. Raises `InvalidArgument` for an invalid level."""
    option = sandbox.config.linux.security_context.selinux_options or SELinuxOption()
    return _checked(option.level)


def free_level(seed: int, taken: Collection[str]) -> str:
    """A level for a pod that names none: `s0:cA,cB`, two different categories of 1024, a pair that is not in `taken`.

    `seed` is a large number specific to the pod, so that nodes that start pods in the same order choose different levels.
    """
    pairs = _CATEGORIES * (_CATEGORIES - 1) // 2
    for step in range(pairs):
        first, second = divmod((seed + step) % pairs, _CATEGORIES - 1)
        # number the pairs of unequal categories: a rectangle of half the height, with the part below the diagonal folded in
        low, high = (first, second + 1) if second >= first else (_CATEGORIES - 1 - first, _CATEGORIES - 1 - second)
        level = f"s0:c{min(low, high)},c{max(low, high)}"
        if level not in taken:
            return level
    raise ResourceExhausted("every pair of SELinux categories is used by a pod")


def file_label(sandbox: SandboxSpec, level: str) -> str:
    """The SELinux label of a pod's files."""
    option = sandbox.config.linux.security_context.selinux_options or SELinuxOption()
    return f"{option.user or _USER}:object_r:{_FILES}:{level}"


def selinux_labels(spec: ContainerSpec, host: Host, level: str, *, host_pid: bool = False) -> Labels:
    """The labels of a container: for each part its own option, else its pod's, else the default with the pod's `level`.

    Without a `level` (a pod created before levels existed) and without options there is none. Privileged containers, and those
    that share the node's processes or IPC, have no process label unless they name one: policy runs them as `spc_t`. Raises
    `InvalidArgument`.
    """
    nothing = SELinuxOption()
    own = (spec.security.selinux_options if spec.security else None) or nothing
    option = own if own != nothing else spec.sandbox.config.linux.security_context.selinux_options or nothing
    named = option != nothing
    if not host.selinux or not (named or level):
        return Labels()
    level = _checked(option.level) or level or "s0"
    user = option.user or _USER
    process = ":".join((user, option.role or "system_r", option.type or "container_t", level))
    free = privileged(spec) or (not named and (host_pid or spec.sandbox.namespaces.ipc is NamespaceMode.NODE))
    return Labels(process="" if free else process, mounts=f"{user}:object_r:{_FILES}:{level}")


def relabelled(spec: ContainerSpec, labels: Labels) -> list[tuple[int, Mount]]:
    """The mounts whose sources get the container's label, with their indexes; none for `spc_t`, which may access any label."""
    if not labels.mounts or ":spc_t:" in labels.process:
        return []
    return [(number, mount) for number, mount in enumerate(spec.mounts) if mount.selinux_relabel and mount.host_path]


def _checked(level: str) -> str:
    if level and not _LEVEL.fullmatch(level):
        raise InvalidArgument(f"{_FIELD}.selinux_options.level", f"{level!r} is not a level")
    return level


def masked_paths(spec: ContainerSpec) -> tuple[list[str], list[str]]:
    """linux.maskedPaths and readonlyPaths: none for the privileged; an explicit empty list of a client means none."""
    if spec.security is None:
        return list(MASKED), list(READONLY)
    if spec.security.privileged:
        return [], []
    return list(spec.security.masked_paths), list(spec.security.readonly_paths)


def is_localhost(profile: SecurityProfile | None) -> bool:
    """Whether a profile is a file on the node."""
    return profile is not None and profile.profile_type is ProfileType.LOCALHOST
