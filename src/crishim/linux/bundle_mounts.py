"""The mounts of an OCI bundle, for runtimes that have no program for it: bind mounts and file systems below a root."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from crishim.linux.mounts import mount
from crishim.linux.roots import path_in_root

_RDONLY, _REMOUNT, _BIND, _REC = 1, 32, 4096, 16384
_FLAGS: Final = {
    "ro": _RDONLY,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "noatime": 1024,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}
_OTHERS: Final = frozenset({"bind", "rbind", "rw", "private", "rprivate", "slave", "rslave", "shared", "rshared", "rro"})


def mount_bundle(root: Path, mounts: Iterable[Mapping[str, Any]], *, kinds: frozenset[str] = frozenset()) -> None:
    """Mount the bind mounts of a config.json below `root`, and its file systems of these `kinds` (`tmpfs`, `proc`).

    It must run in a mount namespace of its own (`unshare --mount`). Missing places are made; links of the root file system lead
    nowhere outside of it. Raises as `mounts.mount`, and `OSError` for a place that cannot be made.
    """
    for entry in mounts:
        options: Sequence[str] = entry.get("options", ())
        flags = 0
        for option in options:
            flags |= _FLAGS.get(option, 0)
        if {"bind", "rbind"} & set(options):
            source = Path(entry["source"])
            target = place(root, entry["destination"], folder=source.is_dir())
            mount(str(source), target, flags=_BIND | _REC)
            if flags:
                mount("", target, flags=_BIND | _REMOUNT | flags)
        elif entry.get("type") in kinds:
            data = ",".join(option for option in options if option not in _FLAGS and option not in _OTHERS)
            mount(entry.get("source", ""), place(root, entry["destination"], folder=True), entry["type"], flags, data)


def make_read_only(root: Path) -> None:
    """Make a root file system read-only in this mount namespace; what is mounted into it later is not."""
    mount(str(root), root, flags=_BIND | _REC)
    mount("", root, flags=_BIND | _REMOUNT | _RDONLY)


def place(root: Path, path: str, *, folder: bool) -> Path:
    """The path on the host of a place below a root, made as a folder or an empty file where it is missing. Raises `OSError`."""
    here = "/"
    *parents, last = Path(path).parts[1:]
    for part in parents:
        here = _made(root, here, part, folder=True)
    return path_in_root(root, _made(root, here, last, folder=folder))


def _made(root: Path, parent: str, name: str, *, folder: bool) -> str:
    path = os.path.join(parent, name)  # noqa: PTH118 - a path inside of the root
    try:
        path_in_root(root, path)
    except FileNotFoundError:
        outside = path_in_root(root, parent) / name
        with contextlib.suppress(FileExistsError):  # a link that leads nowhere
            outside.mkdir() if folder else outside.touch()
    return path
