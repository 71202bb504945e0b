"""Checkpoint archives on disk: writing one from a dump, reading its origin, unpacking it. All functions block.

An archive is written under a temporary name in the same folder and renamed when it is complete.
"""

import contextlib
import functools
import json
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from crishim.errors import CrishimError, DataLoss, NotFound, from_os_error
from crishim.model.container import CheckpointOrigin
from crishim.model.runtime import PodCheckpoint
from crishim.oci import archive
from crishim.pods.bundle import write_atomically

_OPAQUE: Final = "trusted.overlay.opaque"
_OPAQUE_MARK: Final = ".wh..wh..opq"
_WHITEOUT: Final = ".wh."
_XATTR: Final = "SCHILY.xattr."
_MOST_TEXT: Final = 16 * 1024 * 1024
"""The largest JSON file that is read, in bytes."""


@contextlib.contextmanager
def renamed(path: Path) -> Iterator[None]:
    """Convert errors of the system and of tarfile to the library's, naming the archive."""
    try:
        yield
    except CrishimError:
        raise
    except FileNotFoundError as error:
        raise NotFound("checkpoint", str(path)) from error
    except OSError as error:
        raise from_os_error(error, f"checkpoint {path}") from error
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataLoss(f"checkpoint {path} is not an archive, or is truncated: {error}") from error


def work_folder(path: Path) -> Path:
    """A new folder beside an archive, for files that are written before the archive is complete."""
    with renamed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))


def write_json(folder: Path, name: str, value: Any) -> None:
    """Write one of the archive's JSON files."""
    (folder / name).write_bytes(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape"))


def pack(folder: Path, path: Path) -> None:
    """Create the archive `path` from a work folder by a rename, after an fsync: a reader never sees a part of it."""
    with renamed(path):
        partial = folder.with_suffix(".tar")
        try:
            with partial.open("xb") as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                partial.chmod(0o600)
                for entry in sorted(folder.iterdir()):
                    tar.add(entry, entry.name)
            descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_diff(upper: Path, target: Path) -> list[str]:
    """Write the content of an overlay's upper folder as a tar file. Returns the paths of the lower layers that it deletes."""
    deleted: list[str] = []
    with renamed(target), target.open("xb") as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for place, folders, files in os.walk(upper):
            at = PurePosixPath(place).relative_to(upper)
            for name in sorted((*folders, *files)):
                path = Path(place, name)
                status = path.lstat()
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    deleted.append(f"/{at / name}")
                elif not stat.S_ISSOCK(status.st_mode):
                    _add(tar, path, str(at / name), status)
    return deleted


def _add(tar: tarfile.TarFile, path: Path, name: str, status: os.stat_result) -> None:
    entry = tar.gettarinfo(str(path), name)
    entry.uname = entry.gname = ""
    names = os.listxattr(path, follow_symlinks=False)
    entry.pax_headers = {
        _XATTR + key: os.getxattr(path, key, follow_symlinks=False).decode("utf-8", "surrogateescape")
        for key in names
        if not key.startswith("trusted.overlay.")
    }
    if entry.isreg():
        with path.open("rb") as file:
            tar.addfile(entry, file)
    else:
        tar.addfile(entry)
    if stat.S_ISDIR(status.st_mode) and _OPAQUE in names:
        tar.addfile(tarfile.TarInfo(f"{name}/{_OPAQUE_MARK}"))


def origin(path: Path) -> CheckpointOrigin:
    """The container of an archive, after a check that all required files are in it.

    Raises `NotFound`, and `DataLoss` for an incomplete archive. The archive is read to its end, so a truncated one is found.
    `path` may also be the folder in which an archive was unpacked.
    """
    found: set[str] = set()
    text = b""
    with renamed(path):
        for name, opened in _members(path):
            found.add(name)
            if name == archive.CONFIG and opened is not None:
                with opened() as file:
                    text = file.read(_MOST_TEXT)
    if missing := archive.NEEDED - found:
        raise DataLoss(f"checkpoint {path} is incomplete: it lacks {', '.join(sorted(missing))}")
    return archive.read_origin(text, f"checkpoint {path}")


def unpack(path: Path, folder: Path) -> None:
    """Unpack what a restore needs into a new folder: CRIU's images, the diff and the list of deleted files.

    All of them are regular files. Raises `DataLoss` for any other kind.
    """
    with renamed(path):
        (folder / archive.IMAGES).mkdir(parents=True, mode=0o700)
        for name, opened in _members(path):
            images = PurePosixPath(name).parent == PurePosixPath(archive.IMAGES)
            if images or name in {archive.DIFF, archive.DELETED}:
                if opened is None:
                    raise DataLoss(f"checkpoint {path}: {name} is not a regular file")
                with opened() as source, (folder / name).open("xb") as file:
                    shutil.copyfileobj(source, file)


def write_manifest(folder: Path, checkpoint: PodCheckpoint, now: int) -> None:
    """Write the manifest of a pod's checkpoint atomically."""
    path = folder / archive.MANIFEST
    with renamed(path):
        sizes = {one.name: (folder / archive.file_of(one.name)).stat().st_size for one in checkpoint.containers}
        write_atomically(path, json.dumps(archive.manifest(checkpoint, sizes, now), indent=2))


def read_manifest(folder: Path) -> PodCheckpoint:
    """The manifest of a pod's checkpoint. Raises as `SupportsCheckpoint.read_pod_checkpoint`."""
    path = folder / archive.MANIFEST
    with renamed(path):
        checkpoint, sizes = archive.read_manifest(path.read_bytes(), f"checkpoint {path}")
        for name, size in sizes.items():
            place = folder / archive.file_of(name)
            if not place.exists() or place.stat().st_size != size:
                raise DataLoss(f"checkpoint {folder} is incomplete: {place.name} is not the archive in its manifest")
    return checkpoint


def layer_of(folder: Path) -> Path:
    """Convert the diff of an unpacked archive to an image layer: deleted files become whiteouts at its beginning.

    CRI-O writes no diff for a container that has changed no files.
    """
    diff, listed = folder / archive.DIFF, folder / archive.DELETED
    with renamed(diff):
        if not diff.exists():
            diff.write_bytes(bytes(2 * tarfile.BLOCKSIZE))
        deleted = json.loads(listed.read_bytes()) if listed.exists() else []
        if not deleted:
            return diff
        layer = folder / "layer.tar"
        with layer.open("xb") as file:
            for path in deleted:
                place = PurePosixPath(str(path).lstrip("/"))
                file.write(tarfile.TarInfo(str(place.parent / f"{_WHITEOUT}{place.name}")).tobuf(tarfile.PAX_FORMAT))
            with diff.open("rb") as rest:
                shutil.copyfileobj(rest, file)
    return layer


def _members(path: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """The members of an archive, or the files of a folder with its content: name, and a function that opens a regular file."""
    if path.is_dir():
        for place, folders, files in os.walk(path):
            for name in (*folders, *files):
                file = Path(place, name)
                plain = stat.S_ISREG(file.lstat().st_mode)
                yield str(file.relative_to(path)), functools.partial(_open_plain, file) if plain else None
        return
    with tarfile.open(path, mode="r:*", errorlevel=2) as tar:
        for entry in tar:
            name = str(PurePosixPath(entry.name.lstrip("/")))
            yield name, functools.partial(_extract, tar, entry) if entry.isreg() else None
        _require_end(tar, path)


def _open_plain(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def _extract(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(entry)
    assert file is not None, "extractfile returns a file for regular members"
    return file


def _require_end(tar: tarfile.TarFile, path: Path) -> None:
    """Raise `DataLoss` without the end-of-archive blocks: tarfile accepts an archive cut off between two entries or in
    padding.
    """
    file: IO[bytes] = tar.fileobj  # type: ignore[assignment]  # set in read mode
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataLoss(f"checkpoint {path} is incomplete: it has no end-of-archive marker")
