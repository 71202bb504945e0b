"""Unpacks layers: a blob becomes a folder for overlayfs.

`unpack` does not depend on the layers below, so the layers of an image are unpacked concurrently, and while others are being
downloaded. `settle` then adds, from the bottom to the top, what a layer takes from those below it: owner and mode of folders
that it does not list, targets of hard links, and the real place of a path through a symbolic link of a lower layer. The result
equals unpacking over the layers below (image-spec v1.1, layer.md, "Applying Changesets").

The caller compares the diff id, which is that of the whole stream, including what follows the archive's end.

The one layer of a WebAssembly artifact is no archive but the module, which becomes a file of that name.
"""

import contextlib
import heapq
import os
import posixpath
import shutil
import stat
import tarfile as tar
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from crishim.errors import CrishimError, DataLoss, from_os_error
from crishim.images.headers import Entry
from crishim.images.streams import CHUNK, LayerStream
from crishim.images.tree import OPAQUE, Metadata, Tree, cleaned, is_unpacked_xattr, is_whiteout, joined, sane, set_xattrs
from crishim.images.wasm import MAGIC, MODULE

_WHITEOUT: Final = ".wh."
_RESERVED: Final = ".wh..wh."
_OPAQUE: Final = ".wh..wh..opq"
_XATTR: Final = "SCHILY.xattr."
_FILES: Final = frozenset({tar.REGTYPE, tar.AREGTYPE, tar.CONTTYPE, tar.GNUTYPE_SPARSE})
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = 4096
_MOST_LINKS: Final = 40


class Unpacked(NamedTuple):
    """An unpacked layer, not yet settled. `bytes` and `inodes` are its disk usage, rounded up to blocks."""

    tree: Tree
    diff_id: str
    bytes: int
    inodes: int


def unpack(blob: Path, folder: Path) -> Unpacked:
    """Unpack a blob into an empty folder that nothing else uses. Blocks.

    Raises `DataLoss` for a layer that is invalid or has paths outside of its folder, and `ResourceExhausted` for a full disk.
    """
    with renamed(f"unpacking {blob.name[:12]}"), LayerStream(blob) as stream:
        folder.chmod(0o755)
        if _is_module(blob):
            return _write_module(stream, folder)
        writer = _Writer(Tree(str(folder)), stream)
        writer.write_all()
        return Unpacked(writer.tree, stream.digest(), writer.bytes, writer.inodes)


def _is_module(blob: Path) -> bool:
    with blob.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _write_module(stream: LayerStream, folder: Path) -> Unpacked:
    with (folder / MODULE).open("xb") as file:
        while piece := stream.some(CHUNK):
            file.write(piece)
        os.fchmod(file.fileno(), 0o644)
        size = file.tell()
    return Unpacked(Tree(str(folder)), stream.digest(), -(-size // _BLOCK) * _BLOCK, 1)


def settle(tree: Tree, lowers: Sequence[Path]) -> None:
    """Add what a layer takes from the settled layers below it, the topmost first. Blocks; to be called once.

    Raises `DataLoss` for a hard link without a target, and `ResourceExhausted` for a full disk.
    """
    with renamed("unpacking"):
        waiting: list[tuple[int, str]] = []
        while waiting or tree.fresh:
            for place in tree.fresh:
                heapq.heappush(waiting, (place.count("/"), place))
            tree.fresh.clear()
            _, place = heapq.heappop(waiting)
            if place in tree.implied:
                _settle_folder(tree, place, lowers)
        for place, target in tree.links.items():
            _copy_up(tree, place, target, lowers)
        for place, time in tree.times.items():
            tree.touch(place, time)


def found_below(lowers: Sequence[Path], place: str) -> Path | None:
    """The file that a stack of layers, the topmost first, has at a place; symbolic links are not followed."""
    parts = place.split("/") if place else []
    for lower in lowers:
        path, hidden = lower, False
        for number, part in enumerate(parts):
            hidden = hidden or is_opaque(path)
            path /= part
            try:
                status = path.lstat()
            except FileNotFoundError:
                break
            if is_whiteout(status) or not (stat.S_ISDIR(status.st_mode) or number == len(parts) - 1):
                return None
        else:
            return path
        if hidden:
            return None
    return None


@contextlib.contextmanager
def renamed(doing: str) -> Iterator[None]:
    """Convert the kernel's and tarfile's errors to `CrishimError`s."""
    try:
        yield
    except CrishimError:
        raise
    except OSError as error:
        raise from_os_error(error, doing) from error
    except (tar.TarError, ValueError, OverflowError) as error:
        raise DataLoss(f"{doing}: the layer's archive is broken: {error}") from error


class _Writer:
    """Writes the entries of one archive."""

    def __init__(self, tree: Tree, stream: LayerStream) -> None:
        self.tree = tree
        self.bytes = 0
        self.inodes = 0
        self._stream = stream

    def write_all(self) -> None:
        """Write every entry, in the archive's order."""
        stream: Any = self._stream
        archive: Any = tar.TarFile(fileobj=stream, tarinfo=Entry, encoding="utf-8", errors="surrogateescape")
        while (entry := archive.next()) is not None:
            archive.members = []
            self._write(entry)

    def _write(self, entry: tar.TarInfo) -> None:
        base = posixpath.basename(entry.name)
        if base.startswith(_WHITEOUT):
            self._remove(entry.name, base)
            return
        if entry.size < 0:
            raise DataLoss(f"the layer has a file of {entry.size} bytes")
        tree, metadata = self.tree, _metadata(entry)
        place = tree.place(entry.name)
        if entry.type == tar.DIRTYPE:
            tree.make_folder(place, metadata)
        elif entry.type in _FILES:
            self._write_file(entry, place, metadata)
        elif entry.type == tar.LNKTYPE:
            self._link(place, entry.linkname)
        elif entry.type in {tar.SYMTYPE, tar.FIFOTYPE, tar.CHRTYPE, tar.BLKTYPE}:
            tree.clear(place)
            if self._make_node(entry, tree.at(place)):
                tree.dress(place, metadata)
                tree.touch(place, metadata.mtime_ns)
        else:
            return
        self.inodes += entry.type != tar.LNKTYPE
        self.bytes += -(-entry.size // _BLOCK) * _BLOCK if entry.type in _FILES else _BLOCK * entry.isdir()

    def _remove(self, name: str, base: str) -> None:
        tree = self.tree
        folder = posixpath.dirname(name)
        if base == _OPAQUE:
            tree.hide_below(tree.folder(cleaned(folder)))
            return
        if base.startswith(_RESERVED):
            return
        hidden = base.removeprefix(_WHITEOUT)
        if hidden in {"", ".", ".."}:
            raise DataLoss(f"the layer has an invalid whiteout of {hidden!r}")
        tree.whiteout(tree.place(posixpath.join(folder, hidden)))
        self.inodes += 1

    def _write_file(self, entry: tar.TarInfo, place: str, metadata: Metadata) -> None:
        descriptor = self._create(place)
        try:
            self._stream.seek(entry.offset_data)
            segments: list[tuple[int, int]] | None = getattr(entry, "sparse", None)
            for offset, size in [(0, entry.size)] if segments is None else segments:
                self._copy(descriptor, offset, size, entry.name)
            if segments is not None:
                os.ftruncate(descriptor, entry.size)
            os.fchown(descriptor, metadata.uid, metadata.gid)
            os.fchmod(descriptor, metadata.mode & 0o7777)
            set_xattrs(descriptor, metadata.xattrs)
            os.utime(descriptor, ns=(sane(metadata.mtime_ns), sane(metadata.mtime_ns)))
        finally:
            os.close(descriptor)

    def _create(self, place: str) -> int:
        """Open a new file, in the place of whatever is there. Most places are free, and a look at each would take longer."""
        self.tree.links.pop(place, None)
        try:
            return os.open(self.tree.at(place), _NEW, 0o600)
        except FileExistsError:
            self.tree.clear(place)
            return os.open(self.tree.at(place), _NEW, 0o600)

    def _copy(self, descriptor: int, offset: int, size: int, name: str) -> None:
        while size > 0:
            piece = self._stream.some(size)
            if not piece:
                raise DataLoss(f"the layer ends in the middle of {name[:200]!r}")
            written = os.pwrite(descriptor, piece, offset)
            while written < len(piece):
                written += os.pwrite(descriptor, piece[written:], offset + written)
            offset += len(piece)
            size -= len(piece)

    def _link(self, place: str, linkname: str) -> None:
        tree = self.tree
        target = cleaned(linkname)
        folder, _, base = target.rpartition("/")
        source = joined(tree.folder(folder), base)
        if source == place:
            return
        try:
            status = os.lstat(tree.at(source))
        except FileNotFoundError:
            tree.clear(place)
            tree.link_below(place, source)
            return
        if stat.S_ISDIR(status.st_mode) or is_whiteout(status):
            raise DataLoss(f"the layer has a hard link to {linkname[:200]!r}, which is not a file")
        tree.clear(place)
        os.link(tree.at(source), tree.at(place), follow_symlinks=False)

    def _make_node(self, entry: tar.TarInfo, path: str) -> bool:
        """Create a symbolic link, pipe or device; False for a device that this process may not create (in a user namespace)."""
        if entry.type == tar.SYMTYPE:
            os.symlink(entry.linkname, path)
            return True
        if entry.type == tar.FIFOTYPE:
            os.mkfifo(path, 0o600)
            return True
        kind = stat.S_IFCHR if entry.type == tar.CHRTYPE else stat.S_IFBLK
        try:
            os.mknod(path, kind | 0o600, os.makedev(entry.devmajor, entry.devminor))
        except PermissionError:
            return False
        return True


def _metadata(entry: tar.TarInfo) -> Metadata:
    return Metadata(
        uid=entry.uid,
        gid=entry.gid,
        mode=entry.mode,
        mtime_ns=int(entry.mtime * 10**9),
        xattrs={
            key.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
            for key, value in entry.pax_headers.items()
            if key.startswith(_XATTR)
        },
    )


def _settle_folder(tree: Tree, place: str, lowers: Sequence[Path]) -> None:
    below = found_below(lowers, place)
    parts = place.split("/")
    if below is None or any(is_opaque(Path(tree.at("/".join(parts[:depth])))) for depth in range(len(parts) + 1)):
        return
    status = below.lstat()
    if stat.S_ISDIR(status.st_mode):
        tree.dress(place, _metadata_of(below, status))
        tree.times[place] = status.st_mtime_ns
    elif stat.S_ISLNK(status.st_mode):
        to = _real_folder(tree, place, os.readlink(below), lowers)
        if to == place or to.startswith(f"{place}/"):
            raise DataLoss(f"a symbolic link of the image refers to itself at {place!r}")
        tree.move_folder(place, tree.folder(to))


def _real_folder(tree: Tree, place: str, target: str, lowers: Sequence[Path]) -> str:
    """The target of a symbolic link of a lower layer at `place`, in the layers below and this one together."""
    stack = (Path(tree.root), *lowers)
    at = "" if target.startswith("/") else place.rpartition("/")[0]
    todo, hops = target.split("/")[::-1], 0
    while todo:
        part = todo.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            at = at.rpartition("/")[0]
            continue
        here = joined(at, part)
        link_file = found_below(stack, here)
        if link_file is None or not link_file.is_symlink():
            at = here
            continue
        hops += 1
        if hops > _MOST_LINKS:
            raise DataLoss(f"symbolic links of the image form a loop at {place!r}")
        link = os.readlink(link_file)
        at = "" if link.startswith("/") else at
        todo.extend(link.split("/")[::-1])
    return at


def _copy_up(tree: Tree, place: str, target: str, lowers: Sequence[Path]) -> None:
    folder, _, base = target.rpartition("/")
    below = found_below(lowers, joined(_real_folder(tree, "", folder, lowers), base))
    status = None if below is None else below.lstat()
    if below is None or status is None or not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise DataLoss(f"the layer has a hard link to {target[:200]!r}, which is not a file of the image")
    if os.path.lexists(tree.at(place)):
        return
    shutil.copyfile(below, tree.at(place), follow_symlinks=False)
    tree.dress(place, _metadata_of(below, status))
    tree.touch(place, status.st_mtime_ns)


def _metadata_of(path: Path, status: os.stat_result) -> Metadata:
    names = [name for name in os.listxattr(path, follow_symlinks=False) if is_unpacked_xattr(name)]
    return Metadata(
        uid=status.st_uid,
        gid=status.st_gid,
        mode=stat.S_IMODE(status.st_mode),
        mtime_ns=status.st_mtime_ns,
        xattrs={name: os.getxattr(path, name, follow_symlinks=False) for name in names},
    )


def is_opaque(path: Path) -> bool:
    """Whether a folder is opaque: it hides the content of the layers below."""
    try:
        return os.getxattr(path, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
