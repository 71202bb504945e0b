"""Mounts and devices."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import image
from crishim.cri.convert.scalars import decode_enum, not_empty
from crishim.cri.convert.security import decode_id_mappings, encode_id_mappings
from crishim.errors import InvalidArgument
from crishim.model.mounts import Device, Mount, MountPropagation


def decode_mount(message: pb.Mount, path: str) -> Mount:
    """A mount: of a host path, or else of an image, which must be `readonly`.

    `recursive_read_only` is refused unless the mount is `readonly` and PRIVATE (CRI, `Mount`).
    """
    propagation = decode_enum(MountPropagation, message.propagation, f"{path}.propagation")
    source = image.decode_spec(message.image) if message.HasField("image") else None
    if source is not None and source.image:
        if message.host_path:
            raise InvalidArgument(f"{path}.host_path", "is set beside an image")
        if not message.readonly:
            raise InvalidArgument(f"{path}.readonly", "must be set with an image: an image volume is never written to")
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
    """A device node. Without permissions it has all of them, as container runtimes have it."""
    if set(message.permissions) - set("rwm"):
        raise InvalidArgument(f"{path}.permissions", "may hold the letters r, w and m")
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
