"""Small OCI images out of files of this machine: written as a layout that `skopeo copy` reads."""

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from crishim.images.manifest import this_platform
from crishim.testing.suite.programs import merged_output


@attrs.frozen
class Link:
    """A hard link within the layer, or a symbolic one."""

    target: str
    symbolic: bool = False


@attrs.frozen
class File:
    """A file's content and mode."""

    content: bytes
    mode: int = 0o755


@attrs.frozen
class Folder:
    """An empty folder."""

    mode: int = 0o755


Tree = Mapping[str, File | Link | Folder]


def layer(tree: Tree) -> bytes:
    """A layer's tar, with the folders that its paths need."""
    out = io.BytesIO()
    created: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def folder(path: str, mode: int) -> None:
            if path in created or path in {"", "."}:
                return
            folder(str(Path(path).parent), 0o755)
            created.add(path)
            info = tarfile.TarInfo(path + "/")
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)

        for path, entry in tree.items():
            name = path.lstrip("/")
            if isinstance(entry, Folder):
                folder(name, entry.mode)
                continue
            folder(str(Path(name).parent), 0o755)
            info = tarfile.TarInfo(name)
            if isinstance(entry, Link):
                info.type = tarfile.SYMTYPE if entry.symbolic else tarfile.LNKTYPE
                info.mode = 0o755  # docker gives the file that a hard link names the link's own mode
                info.linkname = entry.target if entry.symbolic else entry.target.lstrip("/")
                tar.addfile(info)
            else:
                info.size, info.mode = len(entry.content), entry.mode
                tar.addfile(info, io.BytesIO(entry.content))
    return out.getvalue()


def write_layout(folder: Path, layers: list[bytes], config: dict[str, Any]) -> None:
    """A layout with one image of these uncompressed layers; `config` is the image configuration's own `config`."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    kinds = "application/vnd.oci.image"
    described = [{"mediaType": f"{kinds}.layer.v1.tar+gzip", **blob(gzip.compress(data, 1, mtime=0))} for data in layers]
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
    whole = {
        "architecture": this_platform(platform.machine()).architecture,  # of the programs that the layers have
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "a test"} for _ in layers],
    }
    described_config = {"mediaType": f"{kinds}.config.v1+json", **blob(json.dumps(whole, sort_keys=True).encode())}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kinds}.manifest.v1+json",
        "config": described_config,
        "layers": described,
    }
    described_manifest = {"mediaType": manifest["mediaType"], **blob(json.dumps(manifest, sort_keys=True).encode())}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described_manifest]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def program(path: str) -> dict[str, File]:
    """A program of this machine with the libraries that it is linked with."""
    linked = merged_output("ldd", path)  # which fails for a static program
    needed = [word for line in linked.splitlines() for word in line.split() if word.startswith("/")]
    return {name: File(Path(name).read_bytes()) for name in (path, *needed)}
