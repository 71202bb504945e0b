"""What a container sees of the host: mounts and devices."""

import enum

import attrs

from crishim.model.image import ImageSpec
from crishim.model.security import IDMapping


class MountPropagation(enum.IntEnum):
    """Which way mounts made later travel. BIDIRECTIONAL also reaches the host."""

    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


@attrs.frozen(kw_only=True)
class Mount:
    """A bind of `host_path`, or a read-only view of `image`, at `container_path`.

    `recursive_read_only` needs `readonly` and PRIVATE propagation.
    """

    container_path: str
    host_path: str = ""
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: MountPropagation = MountPropagation.PRIVATE
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    recursive_read_only: bool = False
    image: ImageSpec | None = None
    image_sub_path: str = ""
    mount_options: tuple[str, ...] = ()


@attrs.frozen
class Device:
    """A device node of the host. `permissions` are cgroup letters out of `rwm`."""

    container_path: str
    host_path: str
    permissions: str = "rwm"
