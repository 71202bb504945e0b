"""Checks that a request for a feature which the backend does not support is refused before anything is made."""

from collections.abc import Awaitable, Mapping
from typing import Any, Final

from crishim.errors import InvalidArgument
from crishim.model.container import Device, Mount, MountPropagation
from crishim.model.features import Feature
from crishim.model.resources import HugepageLimit
from crishim.model.sandbox import PortMapping
from crishim.model.security import (
    Capability,
    IDMapping,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    SELinuxOption,
    SupplementalGroupsPolicy,
    UserNamespace,
)
from crishim.model.values import FrozenDict
from crishim.testing.conformance.candidate import World, equal
from crishim.testing.conformance.kubelet import Kubelet

_MAPPING: Final = (IDMapping(host_id=5 << 16, container_id=0, length=1 << 16),)
_LOCAL: Final = SecurityProfile(ProfileType.LOCALHOST, "/profile")
_USERNS: Final = UserNamespace(NamespaceMode.POD, _MAPPING, _MAPPING)


def _mount(**changes: Any) -> Mapping[str, Any]:
    return {"mounts": (Mount(container_path="/data", host_path="/", **changes),)}


def _namespaces(**changes: Any) -> Mapping[str, Any]:
    return {"namespace_options": NamespaceOption(**{"pid": NamespaceMode.CONTAINER, **changes})}


REQUESTS: Final[tuple[tuple[Feature, Mapping[str, Any]], ...]] = (
    (Feature.PRIVILEGED, {"privileged": True}),
    (Feature.READONLY_ROOTFS, {"readonly_rootfs": True}),
    (Feature.NO_NEW_PRIVS, {"no_new_privs": True}),
    (Feature.USER, {"run_as_user": 1234}),
    (Feature.SUPPLEMENTAL_GROUPS, {"supplemental_groups": (4321,)}),
    (Feature.STRICT_GROUPS, {"supplemental_groups_policy": SupplementalGroupsPolicy.STRICT}),
    (Feature.CAPABILITIES, {"capabilities": Capability(drop_capabilities=("ALL",))}),
    (Feature.AMBIENT_CAPABILITIES, {"capabilities": Capability(add_ambient_capabilities=("NET_ADMIN",))}),
    (Feature.SECCOMP, {"seccomp": _LOCAL}),
    (Feature.APPARMOR, {"apparmor": _LOCAL}),
    (Feature.SECCOMP, {"seccomp": SecurityProfile(ProfileType.RUNTIME_DEFAULT)}),
    (Feature.APPARMOR, {"apparmor": SecurityProfile(ProfileType.RUNTIME_DEFAULT)}),
    (Feature.SELINUX, {"selinux_options": SELinuxOption(type="container_t")}),
    (Feature.HOST_PID, _namespaces(pid=NamespaceMode.NODE)),
    (Feature.TARGET_PID, _namespaces(pid=NamespaceMode.TARGET, target_id="exam")),
    (Feature.HOST_IPC, _namespaces(ipc=NamespaceMode.NODE)),
    (Feature.USER_NAMESPACE, _namespaces(userns_options=_USERNS)),
    (Feature.MASKED_PATHS, {"masked_paths": ("/proc/uptime",)}),
    (Feature.MASKED_PATHS, {"readonly_paths": ("/tmp",)}),  # noqa: S108 - in the container
    (Feature.MOUNTS, _mount()),
    (Feature.READONLY_MOUNTS, _mount(readonly=True)),
    (Feature.RECURSIVE_READONLY_MOUNTS, _mount(recursive_read_only=True)),
    (Feature.MOUNT_PROPAGATION, _mount(propagation=MountPropagation.HOST_TO_CONTAINER)),
    (Feature.BIDIRECTIONAL_MOUNTS, _mount(propagation=MountPropagation.BIDIRECTIONAL)),
    (Feature.IDMAP_MOUNTS, _mount(uid_mappings=_MAPPING)),
    (Feature.IDMAP_MOUNTS, _mount(gid_mappings=_MAPPING)),
    (Feature.MOUNT_OPTIONS, _mount(mount_options=("noexec",))),
    (Feature.DEVICES, {"devices": (Device("/dev/null", "/dev/null"),)}),
    (Feature.CDI_DEVICES, {"cdi_devices": ("exam.example/device=0",)}),
    (Feature.MEMORY_LIMIT, {"memory_limit_in_bytes": 128 << 20}),
    (Feature.CPU_QUOTA, {"cpu_quota": 50_000}),
    (Feature.CPUSET, {"cpuset_cpus": "0"}),
    (Feature.HUGEPAGES, {"hugepage_limits": (HugepageLimit("2MB", 2 << 20),)}),
    (Feature.UNIFIED, {"unified": FrozenDict({"pids.max": "100"})}),
    (Feature.STDIN, {"stdin": True}),
    (Feature.TTY, {"tty": True}),
)
"""For a feature, parts of a container's configuration that request it."""

SANDBOX_REQUESTS: Final[tuple[tuple[Feature, Mapping[str, Any]], ...]] = (
    (Feature.SYSCTLS, {"sysctls": FrozenDict({"kernel.shm_rmid_forced": "1"})}),
    (Feature.HOST_PORTS, {"port_mappings": (PortMapping(container_port=80, host_port=18081),)}),
    (Feature.PRIVILEGED, {"privileged": True}),
    (Feature.SECCOMP, {"seccomp": _LOCAL}),
    (Feature.APPARMOR, {"apparmor": _LOCAL}),
    (Feature.SELINUX, {"selinux_options": SELinuxOption(type="container_t")}),
    (Feature.HOST_NETWORK, _namespaces(network=NamespaceMode.NODE)),
    (Feature.HOST_PID, _namespaces(pid=NamespaceMode.NODE)),
    (Feature.HOST_IPC, _namespaces(ipc=NamespaceMode.NODE)),
    (Feature.USER_NAMESPACE, _namespaces(userns_options=_USERNS)),
)
"""For a feature, parts of a sandbox's configuration that request it."""

_WITH: Final[Mapping[Feature, Feature]] = {
    Feature.AMBIENT_CAPABILITIES: Feature.CAPABILITIES,
    Feature.READONLY_MOUNTS: Feature.MOUNTS,
    Feature.RECURSIVE_READONLY_MOUNTS: Feature.MOUNTS,
    Feature.MOUNT_PROPAGATION: Feature.MOUNTS,
    Feature.BIDIRECTIONAL_MOUNTS: Feature.MOUNTS,
    Feature.IDMAP_MOUNTS: Feature.MOUNTS,
    Feature.MOUNT_OPTIONS: Feature.MOUNTS,
}
"""The feature that a request for another one sets, too, and whose field is named first."""


async def check_unsupported_features_are_refused(world: World) -> None:
    """A container that sets a field outside `supported` is refused with InvalidArgument naming the field, and not created."""
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        for feature, changes in REQUESTS:
            if feature not in world.info.supported:
                config = kubelet.container(world.programs.sleeps(), **changes)
                equal(_field(feature, world), await _refused(kubelet.create(sandbox_id, config)))
        equal([], _made(world, "create_container"))


async def check_unsupported_sandboxes_are_refused(world: World) -> None:
    """A sandbox that sets a field outside `supported` is refused with InvalidArgument naming the field, and not started."""
    async with Kubelet.over(world) as kubelet:
        for feature, changes in SANDBOX_REQUESTS:
            if feature not in world.info.supported:
                equal(_field(feature, world), await _refused(kubelet.pod(**changes)))
        equal([], _made(world, "start_sandbox"))


def _field(feature: Feature, world: World) -> str:
    """The field that the refusal of a request for a feature names."""
    first = _WITH.get(feature, feature)
    return f"config.{(feature if first in world.info.supported else first).value}"


async def _refused(request: Awaitable[object]) -> str:
    """The field that the request is refused for; empty if it is taken."""
    try:
        await request
    except InvalidArgument as error:
        return error.field
    return ""


def _made(world: World, verb: str) -> list[str]:
    """The calls of a verb so far."""
    return [call for call in world.calls if call.startswith(f"{verb}(")]
