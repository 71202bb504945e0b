"""The folders of a store: blobs, layers, and work in progress. All calls block, and are for threads.

    index.json              the images of the store; content without an image here is unused
    blobs/ALGORITHM/HEX     content as the registry has it
    layers/HEX/fs           an unpacked layer, by its chain id; `layer.json` beside it has its size
    snapshots/CONTAINER     see `snapshots`
    tmp                     pulls and unpackings under way, and what is being deleted; emptied at each start

A pull makes its blobs and layers durable (syncfs) before it renames a layer to its name, and a layer before it adds the image
to the index: a power failure leaves complete images, and perhaps unused content, which the next start deletes. Unused blobs
stay for a day, since an interrupted pull continues from them.
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
    """The disk usage of an unpacked layer, rounded up to blocks."""

    bytes: int
    inodes: int


@attrs.frozen
class UnpackedLayer:
    """A layer in `place`/fs that has no name yet. `bytes` and `inodes` are its disk usage, rounded up to blocks."""

    place: Path
    diff_id: str
    bytes: int
    inodes: int


def _lock(descriptor: int) -> None:
    """Lock a file. After a process was killed during a fork, its child may hold the lock for a moment longer.

    Raises `OSError` if another process keeps holding it.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_PAUSE)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Content:
    """The folders below `folder`, created if they do not exist, and locked against other processes until `close`.

    Raises `FailedPrecondition` while another process has them locked, and `PermissionDenied`.
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
        self.sizes: Mapping[str, LayerSize] = {}  # replaced, not changed: the event loop iterates while a thread adopts
        self._naming = threading.Lock()

    def close(self) -> None:
        """Unlock the folders. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def blob(self, digest: str) -> Path:
        """The path of the blob with a digest, whether it exists or not."""
        algorithm, _, digits = digest.partition(":")
        return self.blobs / algorithm / digits

    def layer(self, chain_id: str) -> Path:
        """The folder of an unpacked layer, for overlayfs."""
        return self._layer(chain_id) / "fs"

    def load(self) -> tuple[dict[ImageId, ImageEntry], dict[ImageId, Configuration], list[str]]:
        """The complete images, their configurations, and error messages about the others.

        Raises `DataLoss` for an index that cannot be read.
        """
        self._empty(self.tmp)
        sizes = {}
        for place in self.layers.iterdir():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                size = json.loads((place / "layer.json").read_bytes())
                sizes[f"sha256:{place.name}"] = LayerSize(size["bytes"], size["inodes"])
        self.sizes = sizes
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
                module = entry.layers[0] if len(entry.layers) == 1 else ""  # a layer without lower ones has its own digest
                configs[entry.id] = self.config(entry.id, len(entry.layers), module)
                whole[entry.id] = entry
            except (CrishimError, OSError) as error:
                complaints.append(f"image {entry.id} ({', '.join(entry.tags)}) is lost, and must be pulled again: {error}")
        return whole, configs, complaints

    def config(self, image_id: ImageId, layers: int, module: str) -> Configuration:
        """An image's configuration. Raises `DataLoss` for invalid content, which is deleted, so that the next pull downloads
        it again. The arguments are those of `parse_config`.
        """
        path = self.blob(image_id)
        try:
            return parse_config(check(path.read_bytes(), image_id, "the image's configuration"), layers, module)
        except DataLoss:
            path.unlink()
            raise

    def is_checkpoint(self, entry: ImageEntry) -> bool:
        """Whether an image holds a checkpoint archive. Raises `DataLoss` for a manifest that is broken."""
        manifest = parse_manifest(check(self.blob(entry.manifest).read_bytes(), entry.manifest, "the image's manifest"))
        return isinstance(manifest, Manifest) and manifest.is_checkpoint

    def save(self, table: Mapping[ImageId, ImageEntry]) -> None:
        """Write the index durably. Raises `ResourceExhausted`."""
        fresh = self.tmp / "index.json"
        with renamed("writing the index of images"):
            with fresh.open("wb") as file:
                file.write(dump(table))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.folder / "index.json")
            _sync_folder(self.folder)

    def work(self) -> Path:
        """Create an empty folder for work in progress."""
        with renamed("making a folder"):
            return Path(tempfile.mkdtemp(dir=self.tmp))

    def take_in(self, blobs: Path, digests: Collection[str]) -> None:
        """Move blobs from another folder of this file system, which is laid out as `blobs`, and replace those that exist."""
        with renamed("storing blobs"):
            for digest in dict.fromkeys(digests):
                target = self.blob(digest)
                target.parent.mkdir(exist_ok=True)
                (blobs / target.relative_to(self.blobs)).rename(target)

    def adopt(self, layers: Mapping[str, UnpackedLayer]) -> None:
        """Move the unpacked and settled layers of one image to their names, by chain id.

        Everything is durable before it gets its name.
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
                        self.sizes = {**self.sizes, chain_id: LayerSize(layer.bytes, layer.inodes)}
            _sync_folder(self.layers)

    def sweep(self, layers: Collection[str], blobs: Collection[str], doomed: Collection[str], now: float) -> Callable[[], None]:
        """Move away the layers that are not in `layers`, and the blobs that are not in `blobs` and are in `doomed` or a day
        old at `now`.

        That is fast; the returned function deletes them.
        """
        trash = self.work()
        with self._naming:
            gone = [self._layer(chain_id) for chain_id in self.sizes if chain_id not in layers]
            gone += [place for place in self.layers.iterdir() if f"sha256:{place.name}" not in self.sizes]
            for place in self.blobs.glob("*/*"):
                digest = f"{place.parent.name}:{place.name}"
                if digest not in blobs and (digest in doomed or now - place.stat().st_mtime > _DAY):
                    gone.append(place)
            self.sizes = {chain_id: size for chain_id, size in self.sizes.items() if chain_id in layers}
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
