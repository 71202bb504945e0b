"""Parses indexes, manifests and image configurations (pure).

OCI image-spec v1.1 (image-index.md, manifest.md, config.md) and docker's schema 2, which differ in media types only. Content
that does not match these is `DataLoss`; valid content that is not a container image is `InvalidArgument`.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from crishim.errors import DataLoss, InvalidArgument, NotFound
from crishim.images.reference import valid_digest
from crishim.images.wasm import ARTIFACT, MODULE
from crishim.model.image import ImageConfig
from crishim.model.values import FrozenDict

_OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
"""Of a layer in plain tar; `+gzip` or `+zstd` follows for a compressed one."""

INDEX_TYPES: Final = frozenset({_OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"})
MANIFEST_TYPES: Final = frozenset({_OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"})
_CHOICES: Final = INDEX_TYPES | MANIFEST_TYPES | {""}
"""The media types of an index's entries, besides artifacts of other kinds."""

_MOST_BYTES: Final = 1 << 53
"""The largest integer that JSON numbers represent exactly, and more than any store has."""

_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1"
_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}
_MOST_LAYERS: Final = 500
"""The maximum of lower layers in overlayfs (fs/overlayfs/params.c, OVL_MAX_STACK)."""


@attrs.frozen
class Platform:
    """The platform of a program, in Go's terms: `linux`, `amd64`, and perhaps a variant such as `v7`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@attrs.frozen
class Descriptor:
    """A reference to content: its digest, its size in bytes, and its platform."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None


_CHECKPOINT: Final = ("org.criu.checkpoint.container.name", "io.kubernetes.cri-o.annotations.checkpoint.name")
"""Annotations of a manifest: containerd's (checkpointctl, lib/annotations.go), and CRI-O's."""


@attrs.frozen
class Index:
    """One image for several platforms."""

    manifests: tuple[Descriptor, ...]


@attrs.frozen
class Manifest:
    """One image: its configuration, and its layers from the bottom to the top. `size` is the sum of all, as transferred."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    is_checkpoint: bool = False
    """Whether its layers hold the files of a checkpoint archive, by its annotation."""

    @property
    def module(self) -> str:
        """The digest of a WebAssembly artifact's module; empty for any other image."""
        return self.layers[0].digest if [layer.media_type for layer in self.layers] == [ARTIFACT] else ""

    @property
    def size(self) -> int:
        """The size of the configuration and the layers, in bytes."""
        return self.config.size + sum(layer.size for layer in self.layers)


@attrs.frozen
class Configuration:
    """An image configuration: the defaults for processes, and the digests of the layers as plain tar, bottom first."""

    config: ImageConfig
    diff_ids: tuple[str, ...]
    platform: Platform


def digest_of(data: bytes) -> str:
    """The sha256 digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def check(data: bytes, digest: str, what: str) -> bytes:
    """`data`, if its digest is `digest`. Raises `DataLoss`."""
    algorithm, _, expected = digest.partition(":")
    if algorithm not in {"sha256", "sha384", "sha512"} or hashlib.new(algorithm, data).hexdigest() != expected:
        raise DataLoss(f"{what} does not have the digest {digest}")
    return data


def parse_manifest(data: bytes) -> Index | Manifest:
    """A manifest or an index. Raises `DataLoss` for anything else, and `InvalidArgument` for docker's schema 1."""
    with _shaped("manifest"):
        top = _object(json.loads(data))
        media_type = str(top.get("mediaType", ""))
        if media_type.startswith(_SCHEMA_1) or top.get("schemaVersion") == 1:
            raise InvalidArgument("image.image", "is in docker's schema 1, which is obsolete; push it again")
        if media_type in INDEX_TYPES or (not media_type and "manifests" in top):
            return Index(tuple(_descriptor(item) for item in top["manifests"]))
        layers = tuple(_descriptor(item) for item in top["layers"])
        if len(layers) > _MOST_LAYERS:
            raise InvalidArgument("image.image", f"has {len(layers)} layers, and the maximum of overlayfs is {_MOST_LAYERS}")
        annotations = top.get("annotations") or {}
        return Manifest(_descriptor(top["config"]), layers, any(name in annotations for name in _CHECKPOINT))


def media_type_of(data: bytes) -> str:
    """The media type of a manifest or an index: the one that it names, otherwise OCI's. Raises as `parse_manifest`."""
    parsed = parse_manifest(data)
    return str(json.loads(data).get("mediaType") or (_OCI_INDEX if isinstance(parsed, Index) else _OCI_MANIFEST))


def parse_config(data: bytes, layers: int, module: str = "") -> Configuration:
    """An image configuration with as many `diff_ids` as the manifest has layers. Raises `DataLoss` or `InvalidArgument`.

    A WebAssembly artifact, of which `module` is the digest of its one layer, is the image of one file, which is its entrypoint.
    """
    with _shaped("image configuration"):
        top = _object(json.loads(data))
        if not isinstance(top.get("rootfs"), dict):
            if not module:
                raise InvalidArgument("image.image", "is an artifact and not a container image")
            return Configuration(ImageConfig(entrypoint=(f"/{MODULE}",)), (module,), _platform(top))
        diff_ids = tuple(str(item) for item in top["rootfs"].get("diff_ids") or ())
        if len(diff_ids) != layers or not all(valid_digest(item) for item in diff_ids):
            raise DataLoss(f"the image configuration has {len(diff_ids)} layers, and the manifest {layers}")
        return Configuration(image_config(_object(top.get("config") or {})), diff_ids, _platform(top))


def image_config(value: dict[str, Any]) -> ImageConfig:
    """The `config` of an image configuration (image-spec, config.md). Invalid text is replaced; wrong types raise
    `TypeError`.
    """
    return ImageConfig(
        entrypoint=_texts(value.get("Entrypoint")),
        cmd=_texts(value.get("Cmd")),
        env=_texts(value.get("Env")),
        working_dir=_text(value.get("WorkingDir")),
        user=_text(value.get("User")),
        stop_signal=_text(value.get("StopSignal")),
        volumes=tuple(sorted(map(_text, _object(value.get("Volumes") or {})))),
        labels=FrozenDict({_text(key): _text(text) for key, text in _object(value.get("Labels") or {}).items()}),
    )


def _config_values(config: ImageConfig) -> dict[str, Any]:
    return {
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Env": list(config.env),
        "WorkingDir": config.working_dir,
        "User": config.user,
        "StopSignal": config.stop_signal,
        "Volumes": {path: {} for path in config.volumes},
        "Labels": dict(config.labels),
    }


CONFIG_KEYS: Final = frozenset(_config_values(ImageConfig()))
"""The keys of the `config` of an image configuration that an `ImageConfig` has."""


def config_object(config: ImageConfig) -> dict[str, Any]:
    """The inverse of `image_config`."""
    return {name: value for name, value in _config_values(config).items() if value}


def single_layer(layer: Descriptor, diff_id: str, config: ImageConfig, platform: Platform) -> tuple[bytes, bytes]:
    """The configuration and the manifest of an image of one layer. They have no time, so equal arguments give equal bytes."""
    variant = {"variant": platform.variant} if platform.variant else {}
    described = {
        "architecture": platform.architecture,
        **variant,
        "os": platform.os,
        "config": config_object(config),
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    data = json.dumps(described, sort_keys=True).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _OCI_MANIFEST,
        "config": {"mediaType": _OCI_CONFIG, "digest": digest_of(data), "size": len(data)},
        "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}],
    }
    return data, json.dumps(manifest, sort_keys=True).encode()


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """The chain id of each layer: its name together with all layers below it (config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)


def this_platform(machine: str) -> Platform:
    """The platform of `uname -m`."""
    architecture, variant = _ARCHITECTURES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def choose(index: Index, platform: Platform) -> Descriptor:
    """The manifest of an index that fits a machine best: the highest variant that the machine can run.

    If none fits, the first entry without a platform. The result may be another index. Raises `NotFound` naming the available
    platforms.
    """
    ranked = [(_rank(item.platform, platform), item) for item in index.manifests if item.platform]
    fitting = [(rank, item) for rank, item in ranked if rank is not None]
    unnamed = [item for item in index.manifests if not item.platform and item.media_type in _CHOICES]
    if not fitting and unnamed:
        return unnamed[0]
    if not fitting:
        there = ", ".join(sorted({str(item.platform) for item in index.manifests if item.platform})) or "no named platform"
        raise NotFound(f"an image among those for {there} that fits", str(platform))
    return max(fitting, key=lambda pair: pair[0])[1]


def _rank(offered: Platform | None, machine: Platform) -> int | None:
    """The preference of a manifest; None if it does not fit. Attestations have the platform `unknown/unknown`, which never
    fits.
    """
    if offered is None or (offered.os, offered.architecture) != (machine.os, machine.architecture):
        return None
    ours, theirs = _variant(machine), _variant(offered)
    return theirs if theirs <= ours else None


def _variant(platform: Platform) -> int:
    """A variant as a number. The defaults are v8 for arm64, v7 for arm, v1 for amd64 (containerd/platforms, normalizeArch)."""
    default = {"arm64": "v8", "arm": "v7", "amd64": "v1"}.get(platform.architecture, "v0")
    digits = (platform.variant or default).removeprefix("v").partition(".")[0]
    return int(digits) if digits.isdecimal() else 0


def _descriptor(value: Any) -> Descriptor:
    digest, size = value["digest"], value["size"]
    if not isinstance(digest, str) or not valid_digest(digest) or not isinstance(size, int) or not 0 <= size < _MOST_BYTES:
        raise DataLoss(f"the manifest has an invalid descriptor: {str(digest)[:100]!r}, {str(size)[:30]} bytes")
    platform = _platform(_object(value["platform"])) if value.get("platform") else None
    return Descriptor(digest, size, str(value.get("mediaType", "")), platform)


def _platform(value: dict[str, Any]) -> Platform:
    return Platform(_text(value.get("os")), _text(value.get("architecture")), _text(value.get("variant")))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(item) for item in value or ())


def _text(value: Any) -> str:
    """A string that UTF-8 can encode: JSON may contain unpaired surrogates, which protobuf refuses."""
    return str(value or "").encode("utf-8", "replace").decode("utf-8")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


@contextlib.contextmanager
def _shaped(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataLoss(f"the {what} is invalid: {type(error).__name__} {error}") from error
