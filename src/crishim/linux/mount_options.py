"""The options of mount(8), as containerd and config.json name them (pure)."""

from collections.abc import Iterable
from typing import Final

from crishim.linux.mounts import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_REMOUNT

_SET: Final = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": 16,
    "remount": MS_REMOUNT,
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


def parse_options(options: Iterable[str]) -> tuple[int, list[str]]:
    """The flags of mount(2), of which the last option has precedence, and the file system's own options."""
    flags, data = 0, []
    for option in options:
        if option in _SET:
            flags |= _SET[option]
        elif option in _UNSET:
            flags &= ~_SET[_UNSET[option]]
        elif option != "defaults":
            data.append(option)
    return flags, data
