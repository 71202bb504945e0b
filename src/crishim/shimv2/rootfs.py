"""The mounts that containerd asks for with a task, in the words of mount(8), and their mounting on a bundle's rootfs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import InvalidArgument
from crishim.mounting import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, mount, unmount_below

_FLAGS: Final = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": 16,
    "remount": 32,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}
_NO_FLAGS: Final = {"rw", "suid", "dev", "exec", "async", "atime", "diratime", "defaults"}
_REMOUNT: Final = 32


@attrs.frozen(kw_only=True)
class RootMount:
    """One mount; `target` is relative to the rootfs, mostly empty."""

    kind: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


def parsed(options: Sequence[str]) -> tuple[int, str]:
    """Flags of mount(2), and the rest as the file system's own options."""
    flags, data = 0, []
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option not in _NO_FLAGS:
            data.append(option)
    return flags, ",".join(data)


def mount_rootfs(rootfs: Path, mounts: Sequence[RootMount]) -> None:
    """Mount them in order. What was mounted is unmounted again if one fails. Raises as `mount`."""
    rootfs.mkdir(exist_ok=True, mode=0o711)
    try:
        for one in mounts:
            target = rootfs / one.target.lstrip("/")
            if ".." in Path(one.target).parts:
                raise InvalidArgument("rootfs.target", f"{one.target!r} leads out of the root")
            flags, data = parsed(one.options)
            mount(one.source, target, one.kind, flags, data)
            if flags & MS_BIND and flags & MS_RDONLY:  # a bind mount takes no other flags at first
                mount(one.source, target, one.kind, flags | _REMOUNT, data)
    except BaseException:
        unmount_rootfs(rootfs)
        raise


def unmount_rootfs(rootfs: Path) -> None:
    """Unmount whatever is there."""
    unmount_below(rootfs)
