"""The folders of a store: blobs, layers, and what is under way. Everything here blocks, and is for threads.

    index.json              which images there are; what is not in it does not exist
    blobs/ALGORITHM/HEX     content as the registry has it
    layers/HEX/fs           a layer, unpacked, by its chain id; `layer.json` beside it tells what it takes
    snapshots/CONTAINER     see `snapshots`
    tmp                     pulls and unpackings that are under way, and what is being deleted; empty at each start

A pull makes its blobs and layers durable (syncfs) before a layer gets its name, and a layer before an image gets its: a loss of
power at any moment leaves whole images, and perhaps content that no image names, which the next start sweeps. Blobs that no
image names stay for a day, since a pull that was interrupted goes on from them.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import CrishimError, DataLoss, FailedPrecondition, PermissionDenied
from crishim.images.layers import renamed
from crishim.images.manifest import Configuration, Manifest, check, parse_config, parse_manifest
from crishim.images.snapshots import refuse_marks
from crishim.images.table import ImageEntry, dump, load
from crishim.linux.syscalls import last_os_error, libc
from crishim.model.values import ImageId

_DAY: Final = 86400
_TRIES: Final = 20
_PAUSE: Final = 0.05


@attrs.frozen
class LayerSize:
    """What an unpacked layer takes, rounded up to blocks."""

    bytes: int
    inodes: int


@attrs.frozen
class UnpackedLayer:
    """A layer in `place`/fs that has no name yet. `bytes` and `inodes` are what it takes, rounded up to blocks."""

    place: Path
    diff_id: str
    bytes: int
    inodes: int


def _lock(descriptor: int) -> None:
    """Lock a file. Who was killed in the middle of a fork may hold it for a moment longer, in a child that is not yet another.

    Raises `OSError` if somebody else goes on holding it.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_PAUSE)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Content:
    """The folders below `folder`, made if they are not there, and locked against other processes until `close`.

    Raises `FailedPrecondition` while another process has them, and `PermissionDenied`.
    """

    def __init__(self, folder: Path) -> None:
        refuse_marks(folder)
        self.folder = folder
        self.blobs, self.layers, self.snapshots, self.tmp = (folder / name for name in ("blobs", "layers", "snapshots", "tmp"))
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
            for room, mode in ((self.blobs, 0o700), (self.layers, 0o700), (self.snapshots, 0o711), (self.tmp, 0o700)):
                room.mkdir(exist_ok=True, mode=mode)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PermissionDenied(f"{error.filename}: {error.strerror}") from error
        try:
            _lock(self._lock)
        except OSError as error:
            os.close(self._lock)
            raise FailedPrecondition("used by another process", "free", f"the image store {folder}") from error
        self.sizes: dict[str, LayerSize] = {}
        self._naming = threading.Lock()

    def close(self) -> None:
        """Let others have the folders. May be repeated."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def blob(self, digest: str) -> Path:
        """Where content of a digest is, or will be."""
        algorithm, _, digits = digest.partition(":")
        return self.blobs / algorithm / digits

    def layer(self, chain_id: str) -> Path:
        """The folder of an unpacked layer, for overlayfs."""
        return self._layer(chain_id) / "fs"

    def load(self) -> tuple[dict[ImageId, ImageEntry], dict[ImageId, Configuration], list[str]]:
        """The images whose parts are all here, what their configurations say, and complaints about the others.

        Raises `DataLoss` for an index that cannot be read.
        """
        self._empty(self.tmp)
        for place in self.layers.iterdir():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                size = json.loads((place / "layer.json").read_bytes())
                self.sizes[f"sha256:{place.name}"] = LayerSize(size["bytes"], size["inodes"])
        index = self.folder / "index.json"
        try:
            table = load(index.read_bytes()) if index.exists() else {}
        except DataLoss as error:
            raise DataLoss(f"{index}: {error}") from error
        whole: dict[ImageId, ImageEntry] = {}
        configs: dict[ImageId, Configuration] = {}
        complaints = []
        for entry in table.values():
            try:
                if missing := set(entry.layers) - self.sizes.keys():
                    raise DataLoss(f"its layer {min(missing)} is missing")
                configs[entry.id] = self.config(entry.id, len(entry.layers))
                whole[entry.id] = entry
            except (CrishimError, OSError) as error:
                complaints.append(f"image {entry.id} ({', '.join(entry.tags)}) is lost, and must be pulled again: {error}")
        return whole, configs, complaints

    def config(self, image_id: ImageId, layers: int) -> Configuration:
        """An image's configuration. Raises `DataLoss`; what is broken is deleted, so that the next pull brings it anew."""
        path = self.blob(image_id)
        try:
            return parse_config(check(path.read_bytes(), image_id, "the image's configuration"), layers)
        except DataLoss:
            path.unlink()
            raise

    def is_checkpoint(self, entry: ImageEntry) -> bool:
        """Whether an image holds a checkpoint archive. Raises `DataLoss` for a manifest that is broken."""
        manifest = parse_manifest(check(self.blob(entry.manifest).read_bytes(), entry.manifest, "the image's manifest"))
        return isinstance(manifest, Manifest) and manifest.is_checkpoint

    def save(self, table: Mapping[ImageId, ImageEntry]) -> None:
        """Write the index; it is on the disk on return. Raises `ResourceExhausted`."""
        fresh = self.tmp / "index.json"
        with renamed("writing the index of images"):
            with fresh.open("wb") as file:
                file.write(dump(table))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.folder / "index.json")
            _sync_folder(self.folder)

    def work(self) -> Path:
        """A new empty folder for something under way."""
        with renamed("making a folder"):
            return Path(tempfile.mkdtemp(dir=self.tmp))

    def adopt(self, layers: Mapping[str, UnpackedLayer]) -> None:
        """Give unpacked and settled layers of one image their places, by chain id.

        Everything is on the disk before it has its name.
        """
        with renamed("storing layers"):
            for layer in layers.values():
                size = LayerSize(layer.bytes, layer.inodes)
                (layer.place / "layer.json").write_text(json.dumps(attrs.asdict(size)), encoding="utf-8")
            self._sync_all()
            with self._naming:
                for chain_id, layer in layers.items():
                    if chain_id not in self.sizes:
                        layer.place.rename(self.layer(chain_id).parent)
                        self.sizes[chain_id] = LayerSize(layer.bytes, layer.inodes)
            _sync_folder(self.layers)

    def sweep(self, layers: Collection[str], blobs: Collection[str], doomed: Collection[str], now: float) -> Callable[[], None]:
        """Take away the layers that are not named, and blobs that are not named and are doomed or a day old at `now`.

        That is quick; the answer is a function that really deletes.
        """
        gone = [self._layer(chain_id) for chain_id in self.sizes if chain_id not in layers]
        gone += [place for place in self.layers.iterdir() if f"sha256:{place.name}" not in self.sizes]
        for place in self.blobs.glob("*/*"):
            digest = f"{place.parent.name}:{place.name}"
            if digest not in blobs and (digest in doomed or now - place.stat().st_mtime > _DAY):
                gone.append(place)
        for chain_id in [chain_id for chain_id in self.sizes if chain_id not in layers]:
            del self.sizes[chain_id]
        trash = self.work()
        for number, place in enumerate(gone):
            place.rename(trash / str(number))
        return lambda: shutil.rmtree(trash, ignore_errors=True)

    def _layer(self, chain_id: str) -> Path:
        return self.layers / chain_id.partition(":")[2]

    def _sync_all(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if libc.syncfs(descriptor):
                raise last_os_error()
        finally:
            os.close(descriptor)

    @staticmethod
    def _empty(folder: Path) -> None:
        for place in folder.iterdir():
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
