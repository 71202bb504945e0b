"""The mounts of an OCI bundle, for runtimes that have no program for it: bind mounts and file systems below a root."""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from crishim.errors import InvalidArgument
from crishim.linux.mount_options import parse_options
from crishim.linux.mounts import MS_BIND, MS_RDONLY, MS_REC, MS_REMOUNT, make_tree_read_only, mount
from crishim.linux.roots import path_in_root

__all__ = ["hide_paths", "make_read_only", "mount_bundle", "place"]

_PROPAGATION: Final = frozenset(
    f"{recursive}{kind}" for recursive in ("", "r") for kind in ("private", "slave", "shared", "unbindable")
)
"""Not changed: the mounts are made in a namespace of the container's own."""
_ALL_READ_ONLY: Final = "rro"
_MOST_LINKS: Final = 40


def mount_bundle(root: Path, mounts: Iterable[Mapping[str, Any]], *, kinds: frozenset[str] = frozenset()) -> None:
    """Mount the bind mounts of a config.json below `root`, and its file systems of these `kinds` (`tmpfs`, `proc`).

    It must run in a mount namespace of its own (`unshare --mount`). Missing places are made; links of the root file system lead
    nowhere outside of it. Raises `InvalidArgument` for a destination that is no absolute path below the root, as
    `mounts.mount`, and `OSError` for a place that cannot be made.
    """
    for entry in mounts:
        options: Sequence[str] = entry.get("options", ())
        flags, data = parse_options(option for option in options if option not in _PROPAGATION and option != _ALL_READ_ONLY)
        if flags & MS_BIND:
            source = Path(entry["source"])
            target = place(root, entry["destination"], folder=source.is_dir())
            binding = flags & (MS_BIND | MS_REC)
            mount(str(source), target, flags=binding)
            if flags != binding:  # a bind mount ignores other flags until it is remounted
                mount("", target, flags=MS_REMOUNT | flags & ~MS_REC)
            if _ALL_READ_ONLY in options:
                make_tree_read_only(target)
        elif entry.get("type") in kinds:
            target = place(root, entry["destination"], folder=True)
            mount(entry.get("source", ""), target, entry["type"], flags, ",".join(data))


def hide_paths(root: Path, masked: Iterable[str], read_only: Iterable[str]) -> None:
    """Mask paths below `root` of a config.json (`linux.maskedPaths`) and make others read-only (`linux.readonlyPaths`).

    After `mount_bundle`, in the same mount namespace. What is not there needs none. Raises as `mounts.mount`.
    """
    for path in read_only:
        if (target := _existing(root, path)) is not None:
            mount(str(target), target, flags=MS_BIND | MS_REC)
            mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_REC)
    for path in masked:
        if (target := _existing(root, path)) is not None:
            if target.is_dir():
                mount("tmpfs", target, "tmpfs", MS_RDONLY)
            else:
                mount("/dev/null", target, flags=MS_BIND)


def _existing(root: Path, path: str) -> Path | None:
    try:
        return path_in_root(root, path)
    except OSError:
        return None


def make_read_only(root: Path) -> None:
    """Make a root file system read-only in this mount namespace; what is mounted into it later is not."""
    mount(str(root), root, flags=MS_BIND | MS_REC)
    mount("", root, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def place(root: Path, path: str, *, folder: bool) -> Path:
    """The path on the host of a place below a root, made as a folder or an empty file where it is missing.

    Raises `InvalidArgument` for a path that is not absolute, or is the root itself, and `OSError`.
    """
    parts = Path(path).parts[1:]
    if not path.startswith("/") or not parts:
        raise InvalidArgument("mounts.destination", f"{path!r} is not an absolute path below the root")
    return path_in_root(root, _made(root, "/", parts, folder=folder, links=_MOST_LINKS))


def _made(root: Path, parent: str, parts: Sequence[str], *, folder: bool, links: int) -> str:
    """Make what is missing of a path below `parent`, both inside of the root. The target of a link is made inside, too."""
    here = parent
    for number, part in enumerate(parts):
        inner, outer = os.path.join(here, part), path_in_root(root, here) / part  # noqa: PTH118 - a path inside of the root
        try:
            path_in_root(root, inner)
        except FileNotFoundError:
            is_folder = folder or number < len(parts) - 1
            if outer.is_symlink():
                if not links:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), inner) from None
                target = os.readlink(outer)  # noqa: PTH115 - text, whose dots must stay
                beginning = "/" if target.startswith("/") else here
                _made(root, beginning, [word for word in target.split("/") if word], folder=is_folder, links=links - 1)
            elif is_folder:
                outer.mkdir()
            else:
                os.close(os.open(outer, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
        here = inner
    return here
