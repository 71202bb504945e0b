"""The messages of the container verbs: configurations with mounts and devices, requests, list items and statuses."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import common, image, sandbox_config
from crishim.cri.convert.common import (
    absolute,
    at_least,
    decode_bytes,
    decode_enum,
    decode_map,
    decode_signal,
    encode_bytes,
    encode_signal,
    encode_text,
    encode_texts,
    not_empty,
    sandbox_id,
)
from crishim.cri.convert.resources import decode_resources, encode_resources
from crishim.cri.convert.security import (
    decode_container_context,
    decode_id_mappings,
    encode_container_context,
    encode_id_mappings,
    encode_user,
)
from crishim.cri.encoded import EncodedMessages
from crishim.errors import InvalidArgument
from crishim.model.container import (
    Container,
    ContainerConfig,
    ContainerDetail,
    ContainerFilter,
    ContainerState,
    ContainerStatus,
    Device,
    KeyValue,
    LinuxContainerConfig,
    Mount,
    MountPropagation,
)
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.values import ContainerId, FrozenDict, SandboxId

__all__ = ["decode_config", "encode_config"]


def decode_mount(message: pb.Mount, path: str) -> Mount:
    """A mount of a host path, or of an image, which must be `readonly`.

    `recursive_read_only` is refused unless the mount is `readonly` and PRIVATE (CRI, `Mount`).
    """
    propagation = decode_enum(MountPropagation, message.propagation, f"{path}.propagation")
    source = image.decode_spec(message.image) if message.HasField("image") else None
    if source is not None and source.image:
        if message.host_path:
            raise InvalidArgument(f"{path}.host_path", "is set beside an image")
        if not message.readonly:
            raise InvalidArgument(f"{path}.readonly", "must be set with an image: an image volume is read-only")
    else:
        not_empty(message.host_path, f"{path}.host_path")
    if message.recursive_read_only and not (message.readonly and propagation is MountPropagation.PRIVATE):
        raise InvalidArgument(f"{path}.recursive_read_only", "needs readonly and private propagation")
    return Mount(
        container_path=not_empty(message.container_path, f"{path}.container_path"),
        host_path=message.host_path,
        readonly=message.readonly,
        selinux_relabel=message.selinux_relabel,
        propagation=propagation,
        uid_mappings=decode_id_mappings(message.uidMappings),
        gid_mappings=decode_id_mappings(message.gidMappings),
        recursive_read_only=message.recursive_read_only,
        image=source,
        image_sub_path=message.image_sub_path,
        mount_options=tuple(message.mount_options),
    )


def encode_mount(mount: Mount) -> pb.Mount:
    """A mount."""
    return pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        selinux_relabel=mount.selinux_relabel,
        propagation=pb.MountPropagation.ValueType(mount.propagation),
        uidMappings=encode_id_mappings(mount.uid_mappings),
        gidMappings=encode_id_mappings(mount.gid_mappings),
        recursive_read_only=mount.recursive_read_only,
        image=image.encode_spec(mount.image) if mount.image else None,
        image_sub_path=mount.image_sub_path,
        mount_options=mount.mount_options,
    )


def decode_device(message: pb.Device, path: str) -> Device:
    """A device node. Without permissions it gets all of them, as in containerd and CRI-O."""
    if set(message.permissions) - set("rwm"):
        raise InvalidArgument(f"{path}.permissions", "may have the letters r, w and m")
    return Device(
        container_path=not_empty(message.container_path, f"{path}.container_path"),
        host_path=not_empty(message.host_path, f"{path}.host_path"),
        permissions=message.permissions or "rwm",
    )


def encode_device(device: Device) -> pb.Device:
    """A device node."""
    return pb.Device(
        container_path=device.container_path,
        host_path=device.host_path,
        permissions=device.permissions,
    )


def decode_config(message: pb.ContainerConfig, path: str) -> ContainerConfig:
    """A container's configuration.

    The image may be empty here, since a backend may need none; program, user, log path and variable names are checked when the
    container is resolved.
    """
    if not message.HasField("metadata"):
        raise InvalidArgument(f"{path}.metadata", "is missing")
    return ContainerConfig(
        metadata=common.decode_container(message.metadata, f"{path}.metadata"),
        image=image.decode_spec(message.image),
        command=tuple(message.command),
        args=tuple(message.args),
        working_dir=message.working_dir,
        envs=tuple(decode_key_value(env) for env in message.envs),
        mounts=tuple(decode_mount(mount, f"{path}.mounts[{place}]") for place, mount in enumerate(message.mounts)),
        devices=tuple(decode_device(device, f"{path}.devices[{place}]") for place, device in enumerate(message.devices)),
        labels=decode_map(message.labels),
        annotations=decode_map(message.annotations),
        log_path=message.log_path,
        stdin=message.stdin,
        stdin_once=message.stdin_once,
        tty=message.tty,
        linux=decode_linux(message.linux, f"{path}.linux") if message.HasField("linux") else None,
        cdi_devices=tuple(
            not_empty(device.name, f"{path}.CDI_devices[{place}].name") for place, device in enumerate(message.CDI_devices)
        ),
        stop_signal=decode_signal(message.stop_signal, f"{path}.stop_signal"),
    )


def encode_config(config: ContainerConfig) -> pb.ContainerConfig:
    """A container's configuration."""
    return pb.ContainerConfig(
        metadata=common.encode_container(config.metadata),
        image=image.encode_spec(config.image),
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[encode_key_value(env) for env in config.envs],
        mounts=[encode_mount(mount) for mount in config.mounts],
        devices=[encode_device(device) for device in config.devices],
        labels=config.labels,
        annotations=config.annotations,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=encode_linux(config.linux) if config.linux else None,
        CDI_devices=[pb.CDIDevice(name=name) for name in config.cdi_devices],
        stop_signal=encode_signal(config.stop_signal),
    )


def decode_key_value(message: pb.KeyValue) -> KeyValue:
    """An environment variable. Its value has the type bytes since Kubernetes 1.37, string before; the wire encoding is the
    same.
    """
    return KeyValue(key=message.key, value=decode_bytes(message.value))


def encode_key_value(variable: KeyValue) -> pb.KeyValue:
    """An environment variable."""
    return pb.KeyValue(key=variable.key, value=encode_bytes(variable.value))


def decode_linux(message: pb.LinuxContainerConfig, path: str) -> LinuxContainerConfig:
    """The Linux part. An absent security context stays absent: the backend's defaults then apply."""
    return LinuxContainerConfig(
        resources=decode_resources(message.resources, f"{path}.resources"),
        security_context=decode_container_context(message.security_context, f"{path}.security_context")
        if message.HasField("security_context")
        else None,
    )


def encode_linux(linux: LinuxContainerConfig) -> pb.LinuxContainerConfig:
    """The Linux part."""
    return pb.LinuxContainerConfig(
        resources=encode_resources(linux.resources),
        security_context=encode_container_context(linux.security_context) if linux.security_context else None,
    )


def container_id(text: str) -> ContainerId:
    """The id in a request's `container_id`."""
    return ContainerId(not_empty(text, "container_id"))


def decode_create(request: pb.CreateContainerRequest) -> tuple[SandboxId, ContainerConfig, PodSandboxConfig | None]:
    """CreateContainer: the sandbox's id, the configuration, and the sandbox's configuration if it was sent."""
    if not request.HasField("config"):
        raise InvalidArgument("config", "is missing")
    return (
        sandbox_id(request.pod_sandbox_id),
        decode_config(request.config, "config"),
        sandbox_config.decode_config(request.sandbox_config, "sandbox_config") if request.HasField("sandbox_config") else None,
    )


def encode_create(new_id: ContainerId) -> pb.CreateContainerResponse:
    """CreateContainer: the id."""
    return pb.CreateContainerResponse(container_id=new_id)


def decode_start(request: pb.StartContainerRequest) -> tuple[ContainerId]:
    """StartContainer: the id."""
    return (container_id(request.container_id),)


def decode_stop(request: pb.StopContainerRequest) -> tuple[ContainerId, int]:
    """StopContainer: the id and the grace period in seconds. A negative one is 0, as in containerd."""
    return container_id(request.container_id), max(request.timeout, 0)


def decode_remove(request: pb.RemoveContainerRequest) -> tuple[ContainerId]:
    """RemoveContainer: the id."""
    return (container_id(request.container_id),)


def decode_status(request: pb.ContainerStatusRequest) -> tuple[ContainerId, bool]:
    """ContainerStatus: the id, and whether to be verbose."""
    return container_id(request.container_id), request.verbose


def encode_status(detail: ContainerDetail, statuses: EncodedMessages[ContainerStatus]) -> bytes:
    """ContainerStatus: the container, whose status is cached."""
    return statuses.field(1, detail.status) + pb.ContainerStatusResponse(info=encode_texts(detail.info)).SerializeToString()


def decode_list(request: pb.ListContainersRequest | pb.StreamContainersRequest) -> tuple[ContainerFilter]:
    """ListContainers, StreamContainers: the filter; an absent one matches everything."""
    message = request.filter
    state = decode_enum(ContainerState, message.state.state, "filter.state.state") if message.HasField("state") else None
    filter_ = ContainerFilter(
        id=message.id,
        state=state,
        pod_sandbox_id=message.pod_sandbox_id,
        label_selector=decode_map(message.label_selector),
    )
    return (filter_,)


def encode_item(item: Container) -> pb.Container:
    """One item of a list: field 1 of both ListContainersResponse and StreamContainersResponse."""
    return pb.Container(
        id=item.id,
        pod_sandbox_id=item.pod_sandbox_id,
        metadata=common.encode_container(item.metadata),
        image=image.encode_spec(item.image),
        image_ref=item.image_ref,
        state=pb.ContainerState.ValueType(item.state),
        created_at=item.created_at,
        labels=item.labels,
        annotations=item.annotations,
        image_id=item.image_id,
    )


def decode_update_resources(
    request: pb.UpdateContainerResourcesRequest,
) -> tuple[ContainerId, Resources, FrozenDict[str, str]]:
    """UpdateContainerResources: the id, the change (absent: none), and annotations as hints for this update."""
    return (
        container_id(request.container_id),
        decode_resources(request.linux, "linux"),
        decode_map(request.annotations),
    )


def decode_reopen_log(request: pb.ReopenContainerLogRequest) -> tuple[ContainerId]:
    """ReopenContainerLog: the id."""
    return (container_id(request.container_id),)


def decode_checkpoint(request: pb.CheckpointContainerRequest) -> tuple[ContainerId, str, int]:
    """CheckpointContainer: the id, the archive's absolute path, and the timeout in seconds (0: the default)."""
    return (
        container_id(request.container_id),
        absolute(request.location, "location"),
        at_least(request.timeout, 0, "timeout"),
    )


def encode_container_status(status: ContainerStatus) -> pb.ContainerStatus:
    """A container's status."""
    return pb.ContainerStatus(
        id=status.id,
        metadata=common.encode_container(status.metadata),
        state=pb.ContainerState.ValueType(status.state),
        created_at=status.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        image=image.encode_spec(status.image),
        image_ref=status.image_ref,
        reason=encode_text(status.reason),
        message=encode_text(status.message),
        labels=status.labels,
        annotations=status.annotations,
        mounts=[encode_mount(mount) for mount in status.mounts],
        log_path=status.log_path,
        resources=pb.ContainerResources(linux=encode_resources(status.resources)),
        image_id=status.image_id,
        user=pb.ContainerUser(linux=encode_user(status.user)) if status.user else None,
        stop_signal=encode_signal(status.stop_signal),
    )
