"""Images from local files: a root file system in a folder or a tar file, and what other tools have saved.

Each becomes an OCI layout with one image, whose content a store takes over. Archives are read by skopeo, folders by GNU tar; a
tar file is a layer as it is.
"""

import asyncio
import hashlib
import json
import math
import platform
import re
import shutil
import tarfile
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PullError,
    PullReason,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from crishim.images.layers import renamed
from crishim.images.manifest import LAYER_TYPE, Descriptor, Manifest, parse_manifest, single_layer, this_platform
from crishim.images.puller import Copied
from crishim.images.reference import Reference
from crishim.images.skopeo import PullSettings, failure, load_command
from crishim.images.skopeo_process import PullProgress, Watch, run, with_program
from crishim.images.streams import LayerStream, compression
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
        that is broken or has several images, `ResourceExhausted`, and `Unavailable` without the program that reads the source.
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
        try:
            with tarfile.open(path) as archive:
                names = {member.name for member in archive}
        except tarfile.TarError:  # of a kind that Python does not read; the unpacking of the layer decides
            return None
        if "oci-layout" in names:  # which `docker save` writes too, and which has the digests of a registry
            return f"oci-archive:{link}"
        return f"docker-archive:{link}" if "manifest.json" in names else None

    async def _layer(self) -> Path:
        """A root file system as a tar file of our own."""
        source, layer = self.place / "source", self.place / "layer"
        if not source.is_dir():
            with renamed(f"loading {self.source}"):
                await asyncio.to_thread(shutil.copyfile, source, layer)
            return layer
        if not (program := find_program("tar")):
            raise Unavailable("tar is not on PATH, and is needed to load a folder: apt-get install tar")
        await self._run([program, *_TAR, "--file", str(layer), "--directory", str(source.resolve()), "."])
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
            (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        digest = f"sha256:{hashlib.sha256(written[-1]).hexdigest()}"
        (layout / "index.json").write_text(json.dumps({"manifests": [{"digest": digest}]}), encoding="utf-8")

    async def _copy(self, kind: str, layout: Path) -> None:
        log = await self._run(load_command(with_program(self.settings), kind, str(layout)))
        if not (layout / "index.json").exists():
            raise DataLoss(f"loading {self.source}: skopeo wrote no image: {log}")

    async def _run(self, command: list[str]) -> str:
        """Run a program on local files, which needs no time limit, and return its log."""
        ended = await run(command, self.source, math.inf, self.clock, Watch(str(self.reference), _ignore))
        if ended.code == 0:
            return ended.log
        error = failure(ended.log, self.reference)
        if isinstance(error, ResourceExhausted | FailedPrecondition):
            raise error
        if isinstance(error, PullError) and error.reason is PullReason.SIGNATURE_VALIDATION_FAILED:
            raise error
        raise DataLoss(f"loading {self.source}: {error.message.removeprefix(f'pulling {self.reference}: ')}")


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
