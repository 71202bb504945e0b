"""Mounts: the usual ones, the pod's files, and what the container asked for.

Order matters: by the depth of their paths, and nothing usual where the container has asked for the same path.
"""

import posixpath
from collections.abc import Iterable, Sequence
from typing import Any, Final

from crishim.errors import InvalidArgument, PullError, PullReason
from crishim.model.container import ContainerSpec, Mount, MountPropagation
from crishim.model.security import NamespaceMode
from crishim.oci.facts import Place
from crishim.oci.security import privileged

PROPAGATIONS: Final = frozenset(
    f"{recursive}{kind}" for recursive in ("", "r") for kind in ("private", "shared", "slave", "unbindable")
)
"""The options of a mount that say how it propagates."""
_PROPAGATION: Final = {
    MountPropagation.PRIVATE: "rprivate",
    MountPropagation.HOST_TO_CONTAINER: "rslave",
    MountPropagation.BIDIRECTIONAL: "rshared",
}

_OPTIONS: Final = frozenset({"nodev", "noexec", "nosuid", "noatime", "nodiratime", "relatime", "strictatime"})
"""The further options of a mount: flags of its own that take nothing back of its other fields, as `rw` or `suid` would."""

_SHM: Final = "/dev/shm"  # noqa: S108
_SHM_OPTIONS: Final = ("rw", "nosuid", "nodev", "noexec")
"""Shared memory stays writable with a read-only root, as in containerd and CRI-O; a bind has to repeat the tmpfs's flags."""


def mounts(spec: ContainerSpec, place: Place, *, cgroup_v2: bool = False) -> list[dict[str, Any]]:
    """config.mounts, in order, for a host with this version of cgroups."""
    asked = topmost(spec.mounts)
    taken = {_path(mount) for _, mount in asked}
    usual = [mount for mount in _usual(spec, place, cgroup_v2=cgroup_v2) if mount["destination"] not in taken]
    if "/dev" in taken:
        usual = [mount for mount in usual if not mount["destination"].startswith("/dev/")]
    access = "ro" if _readonly_rootfs(spec) else "rw"
    files = [
        _bind(path, source, ["rprivate", *_SHM_OPTIONS] if path == _SHM else ["rprivate", access])
        for path, source in place.files.items()
        if path not in taken and shared_above(path, spec.mounts) is None
    ]
    own = [_own(mount, number, place) for number, mount in asked]
    # no volume of the image is below a mount of the request, but these may be below it, by way of links too
    volumes = [_bind(path, place.volumes[path], ["rprivate", "rw"]) for path in sorted(place.volumes, key=_depth)]
    return [*usual, *volumes, *sorted((*files, *own), key=lambda mount: _depth(mount["destination"]))]


def _depth(path: str) -> int:
    return path.rstrip("/").count("/")


def topmost(mounts: Sequence[Mount]) -> list[tuple[int, Mount]]:
    """The mounts with their numbers, without those that a later one of the same path covers (`/data` and `/data/` are one)."""
    last = {_path(mount): number for number, mount in enumerate(mounts)}
    return [(number, mount) for number, mount in enumerate(mounts) if last[_path(mount)] == number]


def shared_above(path: str, mounts: Sequence[Mount]) -> int | None:
    """The number of the mount of bidirectional propagation below which a path of the container lies, if any.

    What is mounted there while the container is made would be mounted on the node as well, and stay.
    """
    for number, mount in enumerate(mounts):
        above = mount.container_path.rstrip("/")
        if mount.propagation is MountPropagation.BIDIRECTIONAL and path.startswith(f"{above}/") and path.rstrip("/") != above:
            return number
    return None


def check_shared(spec: ContainerSpec, hidden: Iterable[str] = ()) -> None:
    """Refuse what would be mounted below a mount of bidirectional propagation: other mounts, and paths that are `hidden`.

    `hidden` are masked and read-only paths, which runtimes mount something over. Raises `InvalidArgument`.
    """
    for number, mount in enumerate(spec.mounts):
        if shared_above(mount.container_path, spec.mounts) is not None:
            raise InvalidArgument(
                f"config.mounts[{number}].container_path", "is below a bidirectional mount: it would be mounted on the node too"
            )
    for path in hidden:
        if (above := shared_above(path, spec.mounts)) is not None:
            raise InvalidArgument(
                f"config.mounts[{above}].propagation", f"is bidirectional: the node's own {path} would be hidden too"
            )


def rootfs_propagation(spec: ContainerSpec) -> str:
    """linux.rootfsPropagation: what the widest of the mounts needs; empty for none."""
    wanted = {mount.propagation for mount in spec.mounts}
    if MountPropagation.BIDIRECTIONAL in wanted:
        return "rshared"
    return "rslave" if MountPropagation.HOST_TO_CONTAINER in wanted else ""


def _usual(spec: ContainerSpec, place: Place, *, cgroup_v2: bool) -> list[dict[str, Any]]:
    access = "rw" if privileged(spec) else "ro"
    options = ["rprivate", "nosuid", "noexec", "nodev", "relatime", access]
    if cgroup_v2 and privileged(spec):
        # There is no cgroup namespace then, and outside of one a new mount of cgroup2 sets the options of every other: runc 1.1
        # makes one, which takes nsdelegate and memory_recursiveprot from the node's own.
        cgroup = _bind("/sys/fs/cgroup", "/sys/fs/cgroup", options)
    else:  # of v1 runtimes make binds of the host's, in their own mount namespace or before they enter it
        cgroup = _mount("/sys/fs/cgroup", "cgroup", "cgroup", options)
    host_network = spec.sandbox.namespaces.network is NamespaceMode.NODE
    if place.namespaces.user and host_network:
        # Sysfs belongs to the network namespace's owner. Whoever binds it for a user namespace clones the node's own mount, and
        # what is then mounted below it, masks and cgroups, must not travel back.
        sys = _bind("/sys", "/sys", ["rprivate", "rro", "nosuid", "noexec", "nodev"])
    else:
        sys = _mount("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", access])
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    mapped = any(line.container_id <= 5 < line.container_id + line.length for line in place.namespaces.gids)
    if mapped or not place.namespaces.user:
        devpts.append("gid=5")
    return [
        _mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", devpts),
        _mount("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        sys,
        cgroup,
    ]


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
            raise InvalidArgument(f"{field}.mount_options", f"{option!r} is none of {', '.join(sorted(_OPTIONS))}")
    readonly = mount.readonly or mount.image is not None
    access = "rro" if mount.recursive_read_only else "ro" if readonly else "rw"
    made = _bind(mount.container_path, source.path, [_PROPAGATION[mount.propagation], access, *mount.mount_options])
    for name, lines in (("uidMappings", mount.uid_mappings), ("gidMappings", mount.gid_mappings)):
        if lines:
            made[name] = [{"containerID": line.container_id, "hostID": line.host_id, "size": line.length} for line in lines]
    return made


def _path(mount: Mount) -> str:
    return posixpath.normpath(mount.container_path) if mount.container_path else ""


def _readonly_rootfs(spec: ContainerSpec) -> bool:
    return spec.security is not None and spec.security.readonly_rootfs


def _bind(path: str, source: str, options: list[str]) -> dict[str, Any]:
    return _mount(path, "bind", source, ["rbind", *options])


def _mount(path: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": path, "type": kind, "source": source, "options": options}
