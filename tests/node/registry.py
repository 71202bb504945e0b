"""A registry of our own on the loopback: Debian's `docker-registry`, and images written by us.

`Registry` runs one in a folder of its own, on a free port, and ends it by its pid. `Layout` writes OCI layouts out of values,
and `push` brings one into a registry through skopeo.
"""

import contextlib
import gzip
import hashlib
import io
import json
import signal
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.testing.suite.node import free_port

USER, PASSWORD = "somebody", "a secret"
HTPASSWD = "somebody:$2y$05$HWBrzxjeO636BXGaKI72dee.D6afAUxiWUfACh1QfsHV.rX0YR17.\n"

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@attrs.frozen
class File:
    """An entry of a layer. `kind` is one of tarfile's types; `to` a link's target."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    to: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = 1_600_000_000
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, str] = attrs.field(factory=dict)


def folder(name: str, mode: int = 0o755, **more: Any) -> File:
    return File(name, kind=tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, to: str) -> File:
    return File(name, kind=tarfile.SYMTYPE, to=to, mode=0o777)


def hardlink(name: str, to: str) -> File:
    return File(name, kind=tarfile.LNKTYPE, to=to)


def tar_of(*files: File) -> bytes:
    """A layer as plain tar, whose names are written as they are given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            entry = tarfile.TarInfo(file.name)
            entry.type, entry.linkname, entry.mode = file.kind, file.to, file.mode
            entry.uid, entry.gid, entry.mtime, entry.size = file.uid, file.gid, file.mtime, len(file.data)
            entry.devmajor, entry.devminor = file.device
            entry.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in file.xattrs.items()}
            archive.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()


@attrs.frozen
class Descriptor:
    digest: str
    size: int
    media_type: str

    def json(self, **more: Any) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **more}


class Layout:
    """An OCI layout in a folder, built piece by piece; each image has a tag of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "blobs" / "sha256").mkdir(parents=True)
        (place / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        self._tags: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str) -> Descriptor:
        digest = digest_of(data)
        (self.place / "blobs" / "sha256" / digest.partition(":")[2]).write_bytes(data)
        return Descriptor(digest, len(data), media_type)

    def image(
        self,
        layers: Sequence[bytes],
        config: Mapping[str, Any] | None = None,
        *,
        tag: str = "",
        architecture: str = "amd64",
        docker: bool = False,
        packed: Sequence[bytes] | None = None,
        diff_ids: Sequence[str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """An image of layers in plain tar, packed by gzip unless `packed` has them already. The manifest's descriptor."""
        packed = [gzip.compress(layer, 1, mtime=0) for layer in layers] if packed is None else packed
        layer_type = DOCKER_LAYER if docker else f"{OCI_LAYER}+gzip"
        blobs = [self.blob(data, layer_type) for data in packed]
        text = {
            "architecture": architecture,
            "os": "linux",
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [digest_of(layer) for layer in layers]},
        }
        described = self.blob(json.dumps(text).encode(), DOCKER_CONFIG if docker else OCI_CONFIG)
        manifest_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
        manifest = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": described.json(),
            "layers": [blob.json() for blob in blobs],
            **({"annotations": dict(annotations)} if annotations else {}),
        }
        descriptor = self.blob(json.dumps(manifest).encode(), manifest_type)
        return self.tagged(descriptor, tag)

    def index(self, images: Mapping[str, Descriptor], *, tag: str) -> Descriptor:
        """An index of images by their architecture."""
        manifests = [image.json(platform={"os": "linux", "architecture": name}) for name, image in images.items()]
        text = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return self.tagged(self.blob(json.dumps(text).encode(), OCI_INDEX), tag)

    def tagged(self, descriptor: Descriptor, tag: str) -> Descriptor:
        if tag:
            self._tags.append(descriptor.json(annotations={"org.opencontainers.image.ref.name": tag}))
            (self.place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self._tags}))
        return descriptor


@attrs.define
class Registry:
    """A running registry. `stop` ends it; `start` starts it again with its content."""

    place: Path
    port: int
    auth: bool
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.place / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.address},
        }
        if self.auth:
            (self.place / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "here", "path": str(self.place / "htpasswd")}}
        (self.place / "config.yml").write_text(json.dumps(config))
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(self.place / "config.yml")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        for _ in range(500):
            with contextlib.suppress(OSError):
                self._ping()
                return
            time.sleep(0.02)
        pytest.fail((self.place / "log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def push(self, layout: Layout, tag: str, name: str) -> str:
        """Bring a tag of a layout to `name` (`path:tag`); the reference to pull it by."""
        credentials = ["--dest-creds", f"{USER}:{PASSWORD}"] if self.auth else []
        target = f"{self.address}/{name}"
        command = ["skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--quiet", "--dest-tls-verify=false"]
        done = subprocess.run(
            [*command, *credentials, f"oci:{layout.place}:{tag}", f"docker://{target}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (0, "") == (done.returncode, done.stderr)
        return target

    def put(self, name: str, manifest: bytes, media_type: str) -> None:
        """Push a manifest to `name` (`path:tag`) unchanged; its blobs exist already."""
        path, _, tag = name.rpartition(":")
        request = urllib.request.Request(
            f"http://{self.address}/v2/{path}/manifests/{tag}", manifest, {"Content-Type": media_type}, method="PUT"
        )
        urllib.request.urlopen(request).close()

    def blob_file(self, digest: str) -> Path:
        """Where the registry keeps content."""
        digits = digest.partition(":")[2]
        return self.place / "data/docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"

    def _ping(self) -> None:
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(f"http://{self.address}/v2/") as reply:
            reply.read()


@contextlib.contextmanager
def serving(place: Path, *, auth: bool = False) -> Iterator[Registry]:
    registry = Registry(place, free_port(), auth)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()
