"""Mounts: the default ones, the pod's files, and those of the container's configuration.

They are sorted by the depth of their paths. A default mount is left out if the configuration has one at the same path.
"""

import posixpath
from collections.abc import Iterable, Sequence
from typing import Any, Final

from crishim.errors import InvalidArgument, PullError, PullReason
from crishim.model.container import ContainerSpec, Mount, MountPropagation
from crishim.model.security import IDMapping, NamespaceMode, NamespaceOption
from crishim.oci.facts import Place
from crishim.oci.security import privileged

PROPAGATIONS: Final = frozenset(
    f"{recursive}{kind}" for recursive in ("", "r") for kind in ("private", "shared", "slave", "unbindable")
)
"""The mount options for propagation."""
_PROPAGATION: Final = {
    MountPropagation.PRIVATE: "rprivate",
    MountPropagation.HOST_TO_CONTAINER: "rslave",
    MountPropagation.BIDIRECTIONAL: "rshared",
}

_OPTIONS: Final = frozenset({"nodev", "noexec", "nosuid", "noatime", "nodiratime", "relatime", "strictatime"})
"""Further options that a request may name: mount flags that do not contradict its other fields, as `rw` or `suid` would."""

_SHM: Final = "/dev/shm"  # noqa: S108
_SHM_OPTIONS: Final = ("rw", "nosuid", "nodev", "noexec")
"""Shared memory stays writable with a read-only root, as in containerd and CRI-O; a bind must repeat the flags of the tmpfs."""


def mounts(spec: ContainerSpec, place: Place, *, cgroup_v2: bool = False) -> list[dict[str, Any]]:
    """config.mounts, in order. `cgroup_v2`: the host's cgroup version."""
    requested = topmost(spec.mounts)
    taken = {_path(mount) for _, mount in requested}
    default = default_mounts(
        spec.sandbox.namespaces,
        gids=place.namespaces.gids if place.namespaces.user else None,
        privileged=privileged(spec),
        cgroup_v2=cgroup_v2,
    )
    usual = unhidden(default, spec.mounts)
    access = "ro" if _readonly_rootfs(spec) else "rw"
    files = [
        _bind(path, source, ["rprivate", *_SHM_OPTIONS] if path == _SHM else ["rprivate", access])
        for path, source in place.files.items()
        if path not in taken and shared_above(path, spec.mounts) is None
    ]
    own = [_own(mount, number, place) for number, mount in requested]
    # mounts of the request may be below volumes of the image (also through links), never above
    volumes = [_bind(path, place.volumes[path], ["rprivate", "rw"]) for path in sorted(place.volumes, key=_depth)]
    return [*usual, *volumes, *sorted((*files, *own), key=lambda mount: _depth(mount["destination"]))]


def default_mounts(
    namespaces: NamespaceOption, *, gids: Sequence[IDMapping] | None, privileged: bool, cgroup_v2: bool
) -> list[dict[str, Any]]:
    """The mounts of a container in a pod with these namespaces. `gids`: the mappings of the pod's user namespace; None without
    one.
    """
    access = "rw" if privileged else "ro"
    options = ["rprivate", "nosuid", "noexec", "nodev", "relatime", access]
    if cgroup_v2 and privileged:
        # There is no cgroup namespace then, and a new mount of cgroup2 outside of one changes the options of all others: runc
        # 1.1 creates one, which removes nsdelegate and memory_recursiveprot from the node's.
        cgroup = _bind("/sys/fs/cgroup", "/sys/fs/cgroup", options)
    else:  # for v1, runtimes bind the host's hierarchies in a mount namespace of their own
        cgroup = _mount("/sys/fs/cgroup", "cgroup", "cgroup", options)
    if gids is not None and namespaces.network is NamespaceMode.NODE:
        # Sysfs belongs to the owner of the network namespace. A bind of it for a user namespace clones the node's mount, and
        # mounts below it (masks, cgroups) must not propagate back.
        sys = _bind("/sys", "/sys", ["rprivate", "rro", "nosuid", "noexec", "nodev"])
    else:
        sys = _mount("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", access])
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if gids is None or any(line.container_id <= 5 < line.container_id + line.length for line in gids):
        devpts.append("gid=5")
    return [
        _mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", devpts),
        _mount("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        sys,
        cgroup,
    ]


def unhidden(default: Iterable[dict[str, Any]], requested: Iterable[Mount]) -> list[dict[str, Any]]:
    """The default mounts of a container that has the mounts `requested`."""
    taken = {_path(mount) for mount in requested}
    found = [mount for mount in default if mount["destination"] not in taken]
    return [mount for mount in found if "/dev" not in taken or not mount["destination"].startswith("/dev/")]


def _depth(path: str) -> int:
    return path.rstrip("/").count("/")


def topmost(mounts: Sequence[Mount]) -> list[tuple[int, Mount]]:
    """The mounts with their indexes, without those that a later one at the same path hides (`/data` equals `/data/`)."""
    last = {_path(mount): number for number, mount in enumerate(mounts)}
    return [(number, mount) for number, mount in enumerate(mounts) if last[_path(mount)] == number]


def shared_above(path: str, mounts: Sequence[Mount]) -> int | None:
    """The index of the bidirectional mount that contains a path of the container; None if there is none.

    A mount created there during the container's creation would propagate to the node, and stay.
    """
    for number, mount in enumerate(mounts):
        above = mount.container_path.rstrip("/")
        if mount.propagation is MountPropagation.BIDIRECTIONAL and path.startswith(f"{above}/") and path.rstrip("/") != above:
            return number
    return None


def check_shared(spec: ContainerSpec, hidden: Iterable[str] = ()) -> None:
    """Refuse mounts below a bidirectional mount: other mounts of the request, and `hidden` paths.

    `hidden`: masked and read-only paths, over which runtimes mount. Raises `InvalidArgument`.
    """
    for number, mount in enumerate(spec.mounts):
        if shared_above(mount.container_path, spec.mounts) is not None:
            raise InvalidArgument(
                f"config.mounts[{number}].container_path", "is below a bidirectional mount and would be mounted on the node too"
            )
    for path in hidden:
        if (above := shared_above(path, spec.mounts)) is not None:
            raise InvalidArgument(
                f"config.mounts[{above}].propagation", f"is bidirectional: {path} would be hidden on the node too"
            )


def rootfs_propagation(spec: ContainerSpec) -> str:
    """linux.rootfsPropagation: the widest propagation of the mounts; empty for none."""
    wanted = {mount.propagation for mount in spec.mounts}
    if MountPropagation.BIDIRECTIONAL in wanted:
        return "rshared"
    return "rslave" if MountPropagation.HOST_TO_CONTAINER in wanted else ""


def _own(mount: Mount, number: int, place: Place) -> dict[str, Any]:
    field = f"config.mounts[{number}]"
    source = place.sources.get(mount.container_path)
    if source is None:
        raise InvalidArgument(f"{field}.host_path", "cannot be used")
    if mount.propagation is MountPropagation.BIDIRECTIONAL and not source.shared:
        raise InvalidArgument(f"{field}.propagation", f"{source.path!r} is not on a shared mount")
    if mount.propagation is MountPropagation.HOST_TO_CONTAINER and not (source.shared or source.slave):
        raise InvalidArgument(f"{field}.propagation", f"{source.path!r} is not on a shared or slave mount")
    if mount.recursive_read_only and not (mount.readonly and mount.propagation is MountPropagation.PRIVATE):
        raise PullError(PullReason.RRO_UNSUPPORTED, f"{field}: recursive_read_only needs readonly and private propagation")
    for option in mount.mount_options:
        if option not in _OPTIONS:
            raise InvalidArgument(f"{field}.mount_options", f"{option!r} is not one of {', '.join(sorted(_OPTIONS))}")
    readonly = mount.readonly or mount.image is not None
    access = "rro" if mount.recursive_read_only else "ro" if readonly else "rw"
    entry = _bind(mount.container_path, source.path, [_PROPAGATION[mount.propagation], access, *mount.mount_options])
    for name, lines in (("uidMappings", mount.uid_mappings), ("gidMappings", mount.gid_mappings)):
        if lines:
            entry[name] = [{"containerID": line.container_id, "hostID": line.host_id, "size": line.length} for line in lines]
    return entry


def _path(mount: Mount) -> str:
    return posixpath.normpath(mount.container_path) if mount.container_path else ""


def _readonly_rootfs(spec: ContainerSpec) -> bool:
    return spec.security is not None and spec.security.readonly_rootfs


def _bind(path: str, source: str, options: list[str]) -> dict[str, Any]:
    return _mount(path, "bind", source, ["rbind", *options])


def _mount(path: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": path, "type": kind, "source": source, "options": options}
