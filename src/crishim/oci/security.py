"""Capabilities, profiles, labels and paths."""

import re
from typing import Any, Final

from crishim.errors import InvalidArgument
from crishim.model.container import ContainerSpec
from crishim.model.security import Capability, LinuxContainerSecurityContext, ProfileType, SecurityProfile, SELinuxOption
from crishim.oci.facts import CAPABILITIES, DEFAULT_CAPABILITIES, AppArmor, Host
from crishim.oci.seccomp import seccomp

_FIELD: Final = "config.linux.security_context"
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
"""Where nothing at all is said of security these two lists protect the host; a client that says something says all."""


def privileged(spec: ContainerSpec) -> bool:
    """Whether the container is privileged."""
    return spec.security is not None and spec.security.privileged


def capabilities(spec: ContainerSpec, host: Host) -> dict[str, list[str]]:
    """process.capabilities. Privileged and ALL mean what this process itself may hand on."""
    security = spec.security or LinuxContainerSecurityContext()
    granted = set(host.bounding) if security.privileged else _granted(security.capabilities, host)
    ambient = {_named(name, "add_ambient_capabilities") for name in security.capabilities.add_ambient_capabilities}
    granted |= ambient
    names = sorted(granted)
    made = {"bounding": names, "effective": names, "permitted": names}
    if ambient:
        made["ambient"] = made["inheritable"] = sorted(ambient)
    return made


def _granted(asked: Capability, host: Host) -> set[str]:
    granted = set(DEFAULT_CAPABILITIES) & host.bounding
    adds, drops = {name.upper() for name in asked.add_capabilities}, {name.upper() for name in asked.drop_capabilities}
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
    """linux.seccomp; None for unconfined, which is also what privileged and unsaid mean."""
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
                raise InvalidArgument(field, "is RuntimeDefault, and this machine has no default profile (see `crishim check`)")
            return seccomp(host.seccomp_default, granted, host, field)


def apparmor_profile(spec: ContainerSpec, machine: AppArmor) -> str:
    """process.apparmorProfile; empty for none, which is Unconfined, and what the privileged get who name none.

    RuntimeDefault is `APPARMOR_DEFAULT`, and so is what is unsaid, where it can be had. Raises `InvalidArgument` for a profile
    that is asked for and not loaded.
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


def selinux_labels(spec: ContainerSpec, host: Host) -> tuple[str, str]:
    """The labels of process and mounts: the container's, else the pod's; empty without SELinux. The privileged have none."""
    own = spec.security.selinux_options if spec.security else None
    option = own or spec.sandbox.config.linux.security_context.selinux_options
    if option in {None, SELinuxOption()} or not host.selinux:
        return "", ""
    assert option is not None
    if option.level and not _LEVEL.fullmatch(option.level):
        raise InvalidArgument(f"{_FIELD}.selinux_options.level", f"{option.level!r} is no level")
    user, level = option.user or "system_u", option.level or "s0"
    process = ":".join((user, option.role or "system_r", option.type or "container_t", level))
    mounts = f"{user}:object_r:container_file_t:{level}"
    return ("" if privileged(spec) else process), mounts


def masked_paths(spec: ContainerSpec) -> tuple[list[str], list[str]]:
    """linux.maskedPaths and readonlyPaths: none for the privileged; an empty list of a client means none."""
    if spec.security is None:
        return list(MASKED), list(READONLY)
    if spec.security.privileged:
        return [], []
    return list(spec.security.masked_paths), list(spec.security.readonly_paths)


def is_localhost(profile: SecurityProfile | None) -> bool:
    """Whether a profile is a file of the node's."""
    return profile is not None and profile.profile_type is ProfileType.LOCALHOST
