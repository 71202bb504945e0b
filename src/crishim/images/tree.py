"""The folder into which a layer is unpacked, and the mapping of the layer's names to its files.

Names are relative to the folder in any case. `..` at the beginning of a name, or of a hard link's target, is refused; symbolic
links on the way are followed inside the folder, as for a process with its root there. Nothing else writes here during the
unpacking, so a folder stays a folder until this module removes it.

A layer's removals from the layers below become overlayfs' marks (Documentation/filesystems/overlayfs.rst, "whiteouts and
opaque directories"): a character device 0:0, and the xattr `trusted.overlay.opaque` with `y` on a folder.
"""

import contextlib
import errno
import os
import posixpath
import shutil
import stat
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from crishim.errors import DataLoss

OPAQUE: Final = "trusted.overlay.opaque"
_MOST_LINKS: Final = 40
_LATEST: Final = 1 << 34
"""Seconds since the epoch that every supported file system can store."""


class Metadata(NamedTuple):
    """The metadata of a file: numbers of its owner, mode bits, seconds and nanoseconds, extended attributes.

    Not by attrs, whose import takes half of a worker's start.
    """

    uid: int = 0
    gid: int = 0
    mode: int = 0o755
    mtime_ns: int = 0
    xattrs: Mapping[str, bytes] = MappingProxyType({})


class Tree:
    """The folder and its recorded state. Paths within are strings without a leading slash; the root is the empty string.

    `implied` are folders that exist only as parents, and `fresh` those added to `implied` since the list was last cleared;
    `links` are hard links (place -> target) whose target is in a layer below; `times` the modification times to set on
    folders.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.implied: set[str] = {""}
        self.fresh: list[str] = [""]
        self.links: dict[str, str] = {}
        self.times: dict[str, int] = {}
        self._folders: set[str] = {""}
        self._inside: dict[str, set[str]] = {}

    def dump(self) -> dict[str, Any]:
        """The recorded state as JSON data, for `load`."""
        return {"folders": sorted(self._folders), "implied": sorted(self.implied), "links": self.links, "times": self.times}

    @classmethod
    def load(cls, root: str, value: Mapping[str, Any]) -> "Tree":
        """The tree at `root` with the state that `dump` returned."""
        tree = cls(root)
        for place in value["folders"]:
            tree._add_folder(place)
        tree.implied = set(value["implied"])
        tree.fresh = list(value["implied"])
        for place, target in value["links"].items():
            tree.link_below(place, target)
        tree.times = dict(value["times"])
        return tree

    def at(self, place: str) -> str:
        """The absolute path of a place."""
        return f"{self.root}/{place}" if place else self.root

    def place(self, name: str) -> str:
        """The place of an entry of this name; its parent folders exist afterwards. Raises `DataLoss` for one outside of the
        folder.
        """
        clean = cleaned(name)
        folder, _, base = clean.rpartition("/")
        return joined(self.folder(folder), base)

    def folder(self, path: str) -> str:
        """The real place of a folder, created if necessary; symbolic links on the way are followed."""
        if path in self._folders:
            return path
        todo, at, hops = path.split("/")[::-1], "", 0
        while todo:
            part = todo.pop()
            if part in {"", "."}:
                continue
            if part == "..":
                at = at.rpartition("/")[0]
                continue
            here = joined(at, part)
            target = None if here in self._folders else self._step(here)
            if target is None:
                at = here
                continue
            hops += 1
            if hops > _MOST_LINKS:
                raise DataLoss(f"the layer's symbolic links form a loop at {path!r}")
            at = "" if target.startswith("/") else at
            todo.extend(target.split("/")[::-1])
        return at

    def make_folder(self, place: str, metadata: Metadata) -> None:
        """Create a folder that the layer lists. An existing one keeps its content."""
        if place not in self._folders:
            hidden = self.clear(place)
            os.mkdir(self.at(place), 0o700)
            if hidden:
                self.hide_below(place)
            self._add_folder(place)
        self.implied.discard(place)
        self.dress(place, metadata)
        self.times[place] = metadata.mtime_ns

    def dress(self, place: str, metadata: Metadata) -> None:
        """Set owner, extended attributes and mode of any file. The order matters: chown clears setuid bits."""
        path = self.at(place)
        os.chown(path, metadata.uid, metadata.gid, follow_symlinks=False)
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            os.chmod(path, metadata.mode & 0o7777)
        set_xattrs(path, metadata.xattrs)

    def touch(self, place: str, mtime_ns: int) -> None:
        """Set the modification time; an unsupported time becomes the epoch."""
        os.utime(self.at(place), ns=(sane(mtime_ns), sane(mtime_ns)), follow_symlinks=False)

    def clear(self, place: str) -> bool:
        """Remove what is at a place. True if it was a whiteout: its replacement must not show what is below it."""
        self.links.pop(place, None)
        path = self.at(place)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(path)
            return is_whiteout(status)
        if not place:
            raise DataLoss("the layer replaces its own root")
        shutil.rmtree(path)
        self._forget(place)
        return False

    def link_below(self, place: str, target: str) -> None:
        """Record a hard link to a file of a layer below, or to the target of such a link."""
        self.links[place] = self.links.get(target, target)
        self._note(place)

    def whiteout(self, place: str) -> None:
        """Hide what the layers below have here; what this layer has here stays (image-spec, layer.md, "Whiteouts")."""
        if place in self._folders:
            self.hide_below(place)
        elif not os.path.lexists(self.at(place)) and place not in self.links:
            os.mknod(self.at(place), stat.S_IFCHR | 0o600, os.makedev(0, 0))

    def hide_below(self, place: str) -> None:
        """Hide what the layers below have in this folder."""
        os.setxattr(self.at(place), OPAQUE, b"y")

    def move_folder(self, place: str, to: str) -> None:
        """Move the content of a folder into an existing one; folders in both are merged."""
        for name in os.listdir(self.at(place)):
            source, target = joined(place, name), joined(to, name)
            if source in self._folders and target in self._folders:
                self.move_folder(source, target)
                continue
            if os.path.lexists(self.at(target)):
                self._forget(source)
                continue
            os.rename(self.at(source), self.at(target))
            self._rename(source, target)
        shutil.rmtree(self.at(place))
        for item in self._known(place):
            if item in self.links:
                self._rename_one(item, to + item[len(place) :])
        self._forget(place)

    def _step(self, here: str) -> str | None:
        """Ensure that `here` is a folder, or return the target if it is a symbolic link."""
        path = self.at(here)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            self._imply(here)
            return None
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(path)
        if not is_whiteout(status):
            raise DataLoss(f"the layer has something under {here!r}, which is not a folder")
        os.unlink(path)
        self._imply(here)
        self.hide_below(here)
        return None

    def _imply(self, here: str) -> None:
        os.mkdir(self.at(here), 0o755)
        os.chmod(self.at(here), 0o755)  # noqa: S103 - the mode of an image's folder, independent of the umask
        self._add_folder(here)
        self._add_implied(here)

    def _add_folder(self, place: str) -> None:
        self._folders.add(place)
        self._note(place)

    def _add_implied(self, place: str) -> None:
        if place not in self.implied:
            self.implied.add(place)
            self.fresh.append(place)

    def _note(self, place: str) -> None:
        self._inside.setdefault(place.rpartition("/")[0], set()).add(place)

    def _known(self, place: str) -> list[str]:
        """`place` and everything recorded below it, folders before their content."""
        places = [place]
        for item in places:
            places.extend(self._inside.get(item, ()))
        return places

    def _forget(self, place: str) -> None:
        for item in self._known(place):
            self._folders.discard(item)
            self.implied.discard(item)
            self.links.pop(item, None)
            self.times.pop(item, None)
            self._inside.pop(item, None)
        self._inside.get(place.rpartition("/")[0], set()).discard(place)

    def _rename(self, place: str, to: str) -> None:
        for item in self._known(place):
            self._rename_one(item, to + item[len(place) :])
        self._forget(place)

    def _rename_one(self, item: str, to: str) -> None:
        if item in self._folders:
            self._add_folder(to)
        if item in self.implied:
            self._add_implied(to)
        if item in self.links:
            self.links[to] = self.links[item]
            self._note(to)
        if item in self.times:
            self.times[to] = self.times[item]


def cleaned(name: str) -> str:
    """A name of a layer as a place. Raises `DataLoss` for one outside of the layer."""
    clean = posixpath.normpath(name.lstrip("/") or ".")
    if clean == ".." or clean.startswith("../") or "\0" in clean:
        raise DataLoss(f"the layer has a path that leads out of it: {name[:200]!r}")
    return "" if clean == "." else clean


def joined(folder: str, name: str) -> str:
    """A place in a folder that may be the root."""
    return f"{folder}/{name}" if folder and name else folder or name


def sane(mtime_ns: int) -> int:
    """A time that every supported file system can store; the epoch for others."""
    return mtime_ns if 0 <= mtime_ns < _LATEST * 10**9 else 0


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs' whiteout."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_unpacked_xattr(name: str) -> bool:
    """Whether an extended attribute of a layer is set: overlayfs' own marks and the labels of other hosts are not."""
    return (
        name == "security.capability"
        or name in {"system.posix_acl_access", "system.posix_acl_default"}
        or (name.startswith("user.") and not name.startswith("user.overlay."))
    )


def set_xattrs(path: str | int, xattrs: Mapping[str, bytes]) -> None:
    """Set the extended attributes that `is_unpacked_xattr` accepts, if the file system supports them."""
    for name, value in xattrs.items():
        if not is_unpacked_xattr(name):
            continue
        with ignoring(errno.ENOTSUP, *([errno.EPERM] if name.startswith("user.") else [])):
            os.setxattr(path, name, value, **({} if isinstance(path, int) else {"follow_symlinks": False}))


@contextlib.contextmanager
def ignoring(*numbers: int) -> Iterator[None]:
    """Ignore these errors of the kernel."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
