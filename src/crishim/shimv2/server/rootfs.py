"""Mounts the root file system of a task, as containerd requests it with the options of mount(8), on a bundle's rootfs."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import InvalidArgument
from crishim.linux.mounts import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, mount, unmount_below

_MOUNT: Final = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": 16,
    "remount": 32,
    "mand": 64,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}
"""Options that set flags of mount(2)."""
_UNSET: Final = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "async": "sync",
    "nomand": "mand",
    "atime": "noatime",
    "diratime": "nodiratime",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
}
"""Options that clear the flags of another."""
_REMOUNT: Final = 32
_OF_BINDS: Final = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
_MOST_DATA: Final = 4095
"""The longest options of mount(2): a page with a final zero byte."""
_LOWER: Final = "lowerdir="


@attrs.frozen(kw_only=True)
class RootMount:
    """One mount; `target` is relative to the rootfs, usually empty."""

    kind: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


def parsed(options: Sequence[str]) -> tuple[int, list[str]]:
    """The flags of mount(2), of which the last option has precedence, and the file system's own options."""
    flags, data = 0, []
    for option in options:
        if option in _MOUNT:
            flags |= _MOUNT[option]
        elif option in _UNSET:
            flags &= ~_MOUNT[_UNSET[option]]
        elif option != "defaults":
            data.append(option)
    return flags, data


@contextlib.contextmanager
def shortened(data: Sequence[str]) -> Iterator[str]:
    """A file system's options as one string, valid inside the `with`.

    If many layers make it longer than a page, they are replaced by paths of open folders, which are short.
    """
    whole = ",".join(data)
    layers = [option.removeprefix(_LOWER).split(":") for option in data if option.startswith(_LOWER)]
    if len(whole) <= _MOST_DATA or not layers:
        yield whole
        return
    with contextlib.ExitStack() as opened:
        names = []
        for layer in layers[-1]:
            descriptor = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            names.append(f"/proc/self/fd/{descriptor}")
        others = [option for option in data if not option.startswith(_LOWER)]
        yield ",".join([*others, _LOWER + ":".join(names)])


def mount_rootfs(rootfs: Path, mounts: Sequence[RootMount]) -> None:
    """Mount them in order. If one fails, the others are unmounted again. Raises as `mount`, and `OSError`."""
    rootfs.mkdir(exist_ok=True, mode=0o711)
    try:
        for one in mounts:
            target = rootfs / one.target.lstrip("/")
            if ".." in Path(one.target).parts:
                raise InvalidArgument("rootfs.target", f"{one.target!r} leads out of the root")
            flags, own = parsed(one.options)
            with shortened(own) as data:
                mount(one.source, target, one.kind, flags, data)
            if flags & MS_BIND and flags & _OF_BINDS:  # a bind mount ignores other flags until it is remounted
                mount(one.source, target, one.kind, flags | _REMOUNT)
    except BaseException:
        unmount_rootfs(rootfs)
        raise


def unmount_rootfs(rootfs: Path) -> None:
    """Unmount everything from the rootfs."""
    unmount_below(rootfs)
