"""Images from local files: a root file system in a folder or a tar file, and what other tools have saved.

Each becomes an OCI layout with one image, whose content a store takes over. Archives are read by skopeo, folders by GNU tar,
which leaves out what is mounted below them; a tar file is a layer as it is.
"""

import asyncio
import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import (
    Aborted,
    CrishimError,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PullError,
    PullReason,
    ResourceExhausted,
    Unavailable,
    Unknown,
    from_os_error,
)
from crishim.images.layers import renamed
from crishim.images.manifest import LAYER_TYPE, Descriptor, Manifest, digest_of, parse_manifest, single_layer, this_platform
from crishim.images.puller import Copied
from crishim.images.reference import Reference
from crishim.images.skopeo import PullSettings, failure, load_command
from crishim.images.skopeo_process import MAX_OUTPUT, Ended, PullProgress, Watch, run, with_program
from crishim.images.streams import CHUNK, LayerStream, compression
from crishim.images.tree import cleaned
from crishim.interfaces.seats import Clock
from crishim.linux.programs import find_program
from crishim.model.image import ImageConfig

_TRANSPORT: Final = re.compile(r"(?:oci|oci-archive|docker-archive|dir):.")
"""The transports of skopeo for files (containers-transports(5))."""

_TAR: Final = (
    "--create",
    "--format=posix",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",  # equal trees become equal bytes
    "--sort=name",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",
    "--one-file-system",
)
_TAR_LOCALE: Final = {"LC_ALL": "C.UTF-8", "LANGUAGE": ""}
"""Messages in English, and names in UTF-8, which pax headers have."""

_CHANGED: Final = 1
"""GNU tar's exit status if files have changed while it read them (tar's manual, "Exit status")."""

_TAR_ERRORS: Final = {
    "Wrote only": errno.ENOSPC,  # the message for a disk that fills within a record
    **{os.strerror(number): number for number in (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)},
}


@attrs.frozen(kw_only=True)
class Loader:
    """Writes the image of `source`, which is to be named `reference`, into the empty folder `place`."""

    settings: PullSettings
    clock: Clock
    source: str
    reference: Reference
    config: ImageConfig | None
    place: Path

    async def load(self) -> tuple[Path, Copied]:
        """The folder of the image's blobs, as `ALGORITHM/HEX`, and the image.

        Raises `NotFound`, `InvalidArgument` for a configuration beside an archive, which has its own, `DataLoss` for an archive
        that is broken or has several images, `PermissionDenied`, `Aborted` for a folder that changes meanwhile,
        `ResourceExhausted`, `Unknown` for another failure of tar, and `Unavailable` without the program that reads the source.
        """
        layout = self.place / "layout"
        with renamed(f"loading {self.source}"):
            kind = await asyncio.to_thread(self._kind)
        if kind is None:
            layer = await self._layer()
            with renamed(f"loading {self.source}"):
                await asyncio.to_thread(self._write, layer, layout)
        elif self.config is not None:
            raise InvalidArgument("config", f"is for a root file system, and {self.source} has a configuration of its own")
        else:
            await self._copy(kind, layout)
        return layout / "blobs", await asyncio.to_thread(_copied, layout)

    def _kind(self) -> str | None:
        """The image in skopeo's words; None for a root file system. A path that skopeo gets has no colon."""
        if _TRANSPORT.match(self.source):
            return self.source
        path, link = Path(self.source).absolute(), self.place / "source"
        if not path.exists():
            raise NotFound("file", self.source)
        link.symlink_to(path)
        if path.is_dir():
            return f"oci:{link}" if (path / "oci-layout").is_file() else None
        transport = _transport(path)
        if transport == "docker-archive" and compression(path):  # skopeo 1.9 finds an early end in one with gzip
            link = self.place / "unpacked"
            _uncompress(path, link)
        return f"{transport}:{link}" if transport else None

    async def _layer(self) -> Path:
        """A root file system as a tar file of our own."""
        source, layer = self.place / "source", self.place / "layer"
        if not source.is_dir():
            with renamed(f"loading {self.source}"):
                await asyncio.to_thread(shutil.copyfile, source, layer)
            return layer
        if not (program := find_program("tar")):
            raise Unavailable("tar is not on PATH, and is needed to load a folder: apt-get install tar")
        command = [program, *_TAR, "--file", str(layer), "--directory", str(source.resolve()), "."]
        ended = await self._run(command, {**os.environ, **_TAR_LOCALE})
        if ended.code != 0:
            raise _tar_failure(ended, f"loading {self.source}")
        return layer

    def _write(self, layer: Path, layout: Path) -> None:
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        with layer.open("rb") as file:
            digits = hashlib.file_digest(file, "sha256").hexdigest()
        packed = compression(layer)
        if packed:
            with LayerStream(layer) as stream:
                diff_id = stream.digest()
        else:
            diff_id = f"sha256:{digits}"
        described = Descriptor(f"sha256:{digits}", layer.stat().st_size, f"{LAYER_TYPE}{packed and '+'}{packed}")
        layer.rename(blobs / digits)
        written = single_layer(described, diff_id, self.config or ImageConfig(), this_platform(platform.machine()))
        for data in written:
            (blobs.parent / digest_of(data).replace(":", "/")).write_bytes(data)
        (layout / "index.json").write_text(json.dumps({"manifests": [{"digest": digest_of(written[-1])}]}), encoding="utf-8")

    async def _copy(self, kind: str, layout: Path) -> None:
        ended = await self._run(load_command(with_program(self.settings), kind, str(layout)))
        if ended.code != 0:
            raise self._skopeo_failure(ended)
        if not (layout / "index.json").exists():
            raise DataLoss(f"loading {self.source}: skopeo wrote no image: {ended.log}")

    async def _run(self, command: list[str], environment: dict[str, str] | None = None) -> Ended:
        """Run a program on local files, which needs no time limit."""
        watch = Watch(str(self.reference), _ignore)
        return await run(command, self.source, math.inf, self.clock, watch, environment=environment)

    def _skopeo_failure(self, ended: Ended) -> CrishimError:
        error = failure(ended.log, self.reference)
        if isinstance(error, ResourceExhausted | FailedPrecondition):
            return error
        if isinstance(error, PullError) and error.reason is PullReason.SIGNATURE_VALIDATION_FAILED:
            return error
        return DataLoss(f"loading {self.source}: {error.message.removeprefix(f'pulling {self.reference}: ')}")


def _transport(path: Path) -> str:
    """The transport of skopeo for an archive of images; empty for any other file, of which the unpacking of the layer decides.

    A root file system may have a file manifest.json: docker's is a list of images, each with its layers.
    """
    docker = False
    try:
        with _opened(path) as archive:
            for member in archive:
                name = cleaned(member.name)
                if name == "oci-layout":  # which `docker save` writes too, and which has the digests of a registry
                    return "oci-archive"
                if name == "manifest.json" and member.isreg() and member.size <= MAX_OUTPUT:
                    file = archive.extractfile(member)
                    docker = file is not None and _lists_images(file.read())
    except Exception as error:  # each compression that Python reads has errors of its own
        if isinstance(error, CrishimError) or (isinstance(error, OSError) and error.errno):
            raise
        return ""
    return "docker-archive" if docker else ""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar file, to be read forward: with gzip or zstd as a layer is, with bzip2 or xz, which skopeo knows too, by Python."""
    if not compression(path):
        with tarfile.open(path) as archive:
            yield archive
        return
    with LayerStream(path) as stream:
        file: Any = stream
        yield tarfile.TarFile(fileobj=file)


def _uncompress(path: Path, to: Path) -> None:
    with LayerStream(path) as stream, to.open("xb") as file:
        while piece := stream.some(CHUNK):
            file.write(piece)


def _lists_images(data: bytes) -> bool:
    try:
        images = json.loads(data)
    except (ValueError, RecursionError):
        return False
    listed = isinstance(images, list) and bool(images)
    return listed and all(isinstance(image, dict) and "Layers" in image for image in images)


def _tar_failure(ended: Ended, doing: str) -> CrishimError:
    """The error in GNU tar's messages: the first that has a cause."""
    messages = [line.partition(": ")[2] for line in ended.log.splitlines()]  # without the path of tar
    for message in messages:
        for text, number in _TAR_ERRORS.items():
            if text in message:
                return from_os_error(OSError(number, message), doing)
    kind = Aborted if ended.code == _CHANGED else Unknown
    return kind(f"{doing}: {messages[0] if messages else f'tar has ended with {ended.code}'}")


def _ignore(_: PullProgress) -> None:
    pass


def _copied(layout: Path) -> Copied:
    """The one image of a layout."""
    digest = str(json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"])
    data = (layout / "blobs" / digest.replace(":", "/")).read_bytes()
    manifest = parse_manifest(data)
    if not isinstance(manifest, Manifest):
        raise Unknown(f"{layout} has an index")
    return Copied(digest, len(data), manifest, 0)
