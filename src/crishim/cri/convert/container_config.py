"""ContainerConfig: what is asked of a container."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import image, metadata
from crishim.cri.convert.mounts import decode_device, decode_mount, encode_device, encode_mount
from crishim.cri.convert.resources import decode_resources, encode_resources
from crishim.cri.convert.scalars import decode_bytes, decode_map, decode_signal, encode_bytes, encode_signal, not_empty
from crishim.cri.convert.security import decode_container_context, encode_container_context
from crishim.errors import InvalidArgument
from crishim.model.container import ContainerConfig, KeyValue, LinuxContainerConfig


def decode_config(message: pb.ContainerConfig, path: str) -> ContainerConfig:
    """A container's configuration.

    The image may be unnamed here, since a backend may need none; programs, users, paths of logs and names of variables are
    judged when the container is resolved.
    """
    if not message.HasField("metadata"):
        raise InvalidArgument(f"{path}.metadata", "is missing")
    return ContainerConfig(
        metadata=metadata.decode_container(message.metadata, f"{path}.metadata"),
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
        metadata=metadata.encode_container(config.metadata),
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
    """An environment variable. Its value is bytes since Kubernetes 1.37, text before; on the wire both are the same."""
    return KeyValue(key=message.key, value=decode_bytes(message.value))


def encode_key_value(variable: KeyValue) -> pb.KeyValue:
    """An environment variable."""
    return pb.KeyValue(key=variable.key, value=encode_bytes(variable.value))


def decode_linux(message: pb.LinuxContainerConfig, path: str) -> LinuxContainerConfig:
    """The Linux part. An absent security context stays absent: the library's own defaults then protect the container."""
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
