"""Checkpoint archives on the disk: writing one of what a dump has left, looking into one, unpacking it. All of it blocks.

An archive appears under its name when it is complete: it is written under another in the same folder, and renamed.
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
"""Bytes of the largest file of JSON that is read."""


@contextlib.contextmanager
def renamed(path: Path) -> Iterator[None]:
    """The system's and tarfile's errors over an archive, in our words."""
    try:
        yield
    except CrishimError:
        raise
    except FileNotFoundError as error:
        raise NotFound("checkpoint", str(path)) from error
    except OSError as error:
        raise from_os_error(error, f"checkpoint {path}") from error
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataLoss(f"checkpoint {path} is no archive, or not all of one: {error}") from error


def work_folder(path: Path) -> Path:
    """A new folder beside an archive, for what is written before it is complete."""
    with renamed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))


def write_json(folder: Path, name: str, value: Any) -> None:
    """One of the archive's files of JSON."""
    (folder / name).write_bytes(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape"))


def pack(folder: Path, path: Path) -> None:
    """Make the archive `path` of a work folder, at once and whole. Afterwards it is on the disk also if the power fails."""
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
    """Write what lies in an overlay's upper folder as a tar file; answers the paths that it hides of the layers below."""
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
    """Whose archive it is, once all that it must have was found. Raises `NotFound`, and `DataLoss` for one that is not whole.

    Reads the archive to its end: one that was cut off is none. A folder stands for the archive that was unpacked in it.
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
        raise DataLoss(f"checkpoint {path} is not whole: it has no {', '.join(sorted(missing))}")
    return archive.read_origin(text, f"checkpoint {path}")


def unpack(path: Path, folder: Path) -> None:
    """Unpack what a restore needs into a new folder: CRIU's images, the diff and the list of what was deleted.

    They are plain files. Anything else among them is refused with `DataLoss`.
    """
    with renamed(path):
        (folder / archive.IMAGES).mkdir(parents=True, mode=0o700)
        for name, opened in _members(path):
            images = PurePosixPath(name).parent == PurePosixPath(archive.IMAGES)
            if images or name in {archive.DIFF, archive.DELETED}:
                if opened is None:
                    raise DataLoss(f"checkpoint {path}: {name} is no file")
                with opened() as source, (folder / name).open("xb") as file:
                    shutil.copyfileobj(source, file)


def write_manifest(folder: Path, checkpoint: PodCheckpoint, now: int) -> None:
    """Write the manifest of a pod's checkpoint, at once and whole."""
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
                raise DataLoss(f"checkpoint {folder} is not whole: {place.name} is not the archive that its manifest names")
    return checkpoint


def layer_of(folder: Path) -> Path:
    """The diff of an unpacked archive as a layer of an image: what was deleted becomes whiteouts at its beginning.

    An archive without a diff is of a container that has written nothing, in CRI-O.
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
    """What an archive has, or a folder with the content of one: each name, and how to open it if it is a plain file."""
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
    assert file is not None, "a regular file can be opened"
    return file


def _require_end(tar: tarfile.TarFile, path: Path) -> None:
    """Tarfile takes an archive that was cut off between two entries, or in the last one's padding, for a whole one."""
    file: IO[bytes] = tar.fileobj  # type: ignore[assignment]  # open for reading it has one
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataLoss(f"checkpoint {path} is not whole: it does not end as an archive does")
