"""Pods, containers and limits between the model and NRI's messages (pure)."""

from typing import Final

import attrs

from crishim._proto import nri_pb2 as pb
from crishim.model.container import ContainerState, Mount, MountPropagation
from crishim.model.lifecycle import ContainerView, PodView
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.security import NamespaceMode, ProfileType
from crishim.model.values import FrozenDict
from crishim.nri.merging import removed
from crishim.oci.mounts import default_mounts, unhidden
from crishim.oci.resources import cgroups_path

__all__ = ["CgroupSetup"]

_STATES: Final = {
    ContainerState.CREATED: pb.CONTAINER_CREATED,
    ContainerState.RUNNING: pb.CONTAINER_RUNNING,
    ContainerState.EXITED: pb.CONTAINER_STOPPED,
    ContainerState.UNKNOWN: pb.CONTAINER_UNKNOWN,
}
_PROPAGATIONS: Final = {
    MountPropagation.PRIVATE: "rprivate",
    MountPropagation.HOST_TO_CONTAINER: "rslave",
    MountPropagation.BIDIRECTIONAL: "rshared",
}
_MAX_INT: Final = (1 << 31) - 1
_CHANGING: Final = ("state", "started_at", "finished_at", "exit_code", "status_reason", "status_message")


@attrs.frozen(kw_only=True)
class CgroupSetup:
    """The cgroup version of the node, and whether its driver is systemd."""

    v2: bool = True
    systemd: bool = False


def pod_message(pod: PodView) -> pb.PodSandbox:
    """A pod as plugins see it."""
    config, metadata = pod.spec.config, pod.spec.config.metadata
    message = pb.PodSandbox(
        id=pod.spec.id,
        name=metadata.name,
        uid=metadata.uid,
        namespace=metadata.namespace,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=pod.spec.handler,
        ips=pod.spec.ips,
        linux=pb.LinuxPodSandbox(cgroup_parent=config.linux.cgroup_parent),
    )
    overhead, resources = pod.overhead or config.linux.overhead, pod.resources or config.linux.resources
    if overhead is not None:
        message.linux.pod_overhead.CopyFrom(resources_message(overhead))
    if resources is not None:
        message.linux.pod_resources.CopyFrom(resources_message(resources))
    if pod.spec.netns:
        message.linux.namespaces.add(type="network", path=pod.spec.netns)
    return message


def container_message(pod: PodView, container: ContainerView, cgroups: CgroupSetup) -> pb.Container:
    """A container as plugins see it, before its adjustments."""
    message = pb.Container(
        id=container.id,
        pod_sandbox_id=pod.spec.id,
        name=container.name,
        state=_STATES[container.state],
        labels=container.labels,
        annotations=container.annotations,
        args=[_text(word) for word in container.argv],
        env=[f"{key}={_text(value)}" for key, value in container.env.items()],
        mounts=[*_default_mounts(pod, container, cgroups), *map(_mount, (one for one in container.mounts if one.host_path))],
        CDI_devices=[pb.CDIDevice(name=name) for name in container.cdi_devices],
        created_at=container.created_at,
        started_at=container.started_at,
        finished_at=container.finished_at,
        exit_code=min(container.exit_code, _MAX_INT),
        status_reason=_text(container.reason),
        status_message=_text(container.message),
        image=pb.Image(
            name=container.image.user_specified_image or container.image.image,
            digest=container.image_ref.partition("@")[2],
            config_digest=container.image_id,
        ),
    )
    message.linux.resources.CopyFrom(resources_message(container.resources))
    message.linux.oom_score_adj.value = container.resources.oom_score_adj
    if container.has_config_json:
        parent = pod.spec.config.linux.cgroup_parent
        message.linux.cgroups_path = cgroups_path(parent, container.id, systemd=cgroups.systemd)
    if container.seccomp is not None:
        profile = message.linux.seccomp_profile
        profile.profile_type = pb.SecurityProfile.ProfileType.Value(ProfileType(container.seccomp.profile_type).name)
        profile.localhost_ref = container.seccomp.localhost_ref
    return message


def with_adjustments(message: pb.Container, adjusted: pb.Container) -> pb.Container:
    """A container as it is now, with what plugins have adjusted at its creation."""
    result = pb.Container()
    result.CopyFrom(adjusted)
    for name in _CHANGING:
        setattr(result, name, getattr(message, name))
    result.linux.resources.ClearField("hugepage_limits")
    result.linux.resources.MergeFrom(message.linux.resources)
    result.linux.oom_score_adj.CopyFrom(message.linux.oom_score_adj)
    return result


def resources_message(limits: Resources) -> pb.LinuxResources:
    """Limits, of which those that are not set are absent."""
    message = pb.LinuxResources(unified=limits.unified)
    if limits.memory_limit_in_bytes:
        message.memory.limit.value = limits.memory_limit_in_bytes
    if limits.memory_swap_limit_in_bytes:
        message.memory.swap.value = limits.memory_swap_limit_in_bytes
    if limits.cpu_shares:
        message.cpu.shares.value = limits.cpu_shares
    if limits.cpu_quota:
        message.cpu.quota.value = limits.cpu_quota
    if limits.cpu_period:
        message.cpu.period.value = limits.cpu_period
    message.cpu.cpus, message.cpu.mems = limits.cpuset_cpus, limits.cpuset_mems
    for limit in limits.hugepage_limits:
        message.hugepage_limits.add(page_size=limit.page_size, limit=limit.limit)
    return message


def resources_model(message: pb.LinuxResources) -> Resources:
    """The limits of a message that CRI has, as a change: absent ones are zero. See `other_limits` for the rest."""
    memory, cpu = message.memory, message.cpu
    return Resources(
        memory_limit_in_bytes=memory.limit.value,
        memory_swap_limit_in_bytes=memory.swap.value,
        cpu_shares=cpu.shares.value,
        cpu_quota=cpu.quota.value,
        cpu_period=cpu.period.value,
        cpuset_cpus=cpu.cpus,
        cpuset_mems=cpu.mems,
        hugepage_limits=tuple(HugepageLimit(limit.page_size, limit.limit) for limit in message.hugepage_limits),
        unified=FrozenDict(dict(message.unified)),
    )


def other_limits(message: pb.LinuxResources) -> list[str]:
    """The names of the limits of a message that CRI does not have, and which an update therefore cannot carry."""
    named = {
        "memory": ("reservation", "kernel", "kernel_tcp", "swappiness", "disable_oom_killer", "use_hierarchy"),
        "cpu": ("realtime_runtime", "realtime_period"),
    }
    found = [f"{part}.{name}" for part, names in named.items() for name in names if getattr(message, part).HasField(name)]
    found += [name for name in ("blockio_class", "rdt_class", "pids") if message.HasField(name)]
    return found + (["devices"] if message.devices else [])


def mount_model(message: pb.Mount) -> Mount | None:
    """A bind mount whose options CRI has; None for any other mount."""
    options = set(message.options)
    if message.type not in {"", "bind"} or not message.source.startswith("/"):
        return None
    if options - {"bind", "rbind", "ro", "rw", *_PROPAGATIONS.values()}:
        return None
    propagation = next((kind for kind, name in _PROPAGATIONS.items() if name in options), MountPropagation.PRIVATE)
    return Mount(
        container_path=removed(message.destination)[0],
        host_path=message.source,
        readonly="ro" in options,
        propagation=propagation,
    )


def _default_mounts(pod: PodView, container: ContainerView, cgroups: CgroupSetup) -> list[pb.Mount]:
    if not container.has_config_json:
        return []
    namespaces = pod.spec.namespaces
    userns = namespaces.userns_options
    gids = userns.gids if userns is not None and userns.mode is NamespaceMode.POD else None
    default = default_mounts(namespaces, gids=gids, privileged=container.privileged, cgroup_v2=cgroups.v2)
    return [pb.Mount(**mount) for mount in unhidden(default, container.mounts)]


def _mount(mount: Mount) -> pb.Mount:
    options = ["rbind", _PROPAGATIONS[mount.propagation], "ro" if mount.readonly else "rw", *mount.mount_options]
    return pb.Mount(destination=mount.container_path, type="bind", source=mount.host_path, options=options)


def _text(value: str) -> str:
    """A text whose surrogates, which protobuf refuses, are question marks."""
    return value.encode("utf-8", "replace").decode()
