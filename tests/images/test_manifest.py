import json
from typing import Any

import pytest

from crishim.errors import DataLoss, InvalidArgument, NotFound
from crishim.images.manifest import (
    Configuration,
    Descriptor,
    Index,
    Manifest,
    Platform,
    chain_ids,
    check,
    choose,
    digest_of,
    parse_config,
    parse_manifest,
    this_platform,
)
from crishim.model.image import ImageConfig
from crishim.model.values import FrozenDict

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
MANIFEST = {"schemaVersion": 2, "config": {"digest": A, "size": 3}, "layers": [{"digest": B, "size": 4, "mediaType": "x"}]}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def index(*platforms: str) -> Index:
    there = [Platform(*text.split("/")) if text else None for text in platforms]
    return Index(tuple(Descriptor(A, number, platform=platform) for number, platform in enumerate(there)))


def test_a_manifest() -> None:
    """A manifest has a configuration and layers, and its size is theirs together."""
    manifest = parse_manifest(encoded(MANIFEST))
    assert Manifest(Descriptor(A, 3), (Descriptor(B, 4, "x"),)) == manifest
    assert isinstance(manifest, Manifest)
    assert 7 == manifest.size


def test_an_index() -> None:
    """An index is recognised by its media type, or without one by its fields."""
    item = {"digest": A, "size": 1, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}
    text = {"schemaVersion": 2, "manifests": [item, {"digest": B, "size": 2}]}
    expected = Index((Descriptor(A, 1, platform=Platform("linux", "arm", "v7")), Descriptor(B, 2)))
    for kind in ({}, {"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json"}):
        assert expected == parse_manifest(encoded({**text, **kind}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        encoded({**MANIFEST, "layers": 1}),
        encoded({**MANIFEST, "layers": [{"digest": "../../etc/passwd", "size": 1}]}),
        encoded({**MANIFEST, "layers": [{"digest": A, "size": -1}]}),
        encoded({**MANIFEST, "layers": [{"digest": A, "size": "1"}]}),
        encoded({**MANIFEST, "layers": [{"digest": A, "size": 1 << 63}]}),
        encoded({**MANIFEST, "config": None}),
        encoded({"manifests": [3]}),
    ],
)
def test_what_is_no_manifest(data: bytes) -> None:
    """What does not have a manifest's shape, digests and sizes included, is `DataLoss`."""
    with pytest.raises(DataLoss):
        parse_manifest(data)


@pytest.mark.parametrize(
    "data", [{"schemaVersion": 1, "fsLayers": []}, {**MANIFEST, "layers": [{"digest": B, "size": 4}] * 501}]
)
def test_manifests_that_cannot_be_used(data: dict[str, Any]) -> None:
    """Docker's schema 1, and more layers than overlayfs takes, are refused."""
    with pytest.raises(InvalidArgument):
        parse_manifest(encoded(data))


def test_a_configuration() -> None:
    """All fields that a container uses are read, with empty values for absent ones and null."""
    config: dict[str, Any] = {
        "Entrypoint": ["/a"],
        "Cmd": None,
        "Env": ["A=b"],
        "WorkingDir": "/w",
        "User": "1:2",
        "StopSignal": "SIGINT",
        "Volumes": {"/b": {}, "/a": {}},
        "Labels": {"k": "v"},
    }
    text = {"os": "linux", "architecture": "amd64", "config": config, "rootfs": {"type": "layers", "diff_ids": [A]}}
    said = ImageConfig(
        entrypoint=("/a",),
        env=("A=b",),
        working_dir="/w",
        user="1:2",
        stop_signal="SIGINT",
        volumes=("/a", "/b"),
        labels=FrozenDict({"k": "v"}),
    )
    assert Configuration(said, (A,), Platform("linux", "amd64")) == parse_config(encoded(text), 1)
    assert ImageConfig() == parse_config(encoded({"rootfs": {"diff_ids": None}}), 0).config


def test_configurations_that_cannot_be_used() -> None:
    """An artifact is refused; another number of layers than the manifest's, and diff ids that are none, are `DataLoss`."""
    with pytest.raises(InvalidArgument):
        parse_config(b"{}", 0)
    for diff_ids in ([], [A, A], ["x"]):
        with pytest.raises(DataLoss):
            parse_config(encoded({"rootfs": {"diff_ids": diff_ids}}), 1)


def test_a_webassembly_artifact_is_an_image_of_one_file() -> None:
    """Its module is the one layer and the entrypoint; with another layer beside it, it is an artifact of another kind."""
    text = encoded({"architecture": "wasm", "os": "wasip1", "layerDigests": [A]})
    module, config = Descriptor(A, 8, "application/wasm"), Descriptor(B, 8)
    expected = Configuration(ImageConfig(entrypoint=("/module.wasm",)), (A,), Platform("wasip1", "wasm"))
    assert expected == parse_config(text, 1, Manifest(config, (module,)).module)
    two = Manifest(config, (module, Descriptor(B, 1, "text/plain")))
    with pytest.raises(InvalidArgument):
        parse_config(text, 2, two.module)


def test_chain_ids() -> None:
    """The first chain id is the first diff id, and each further one the digest of the one before and its diff id."""
    second = digest_of(f"{A} {B}".encode())
    assert (A, second, digest_of(f"{second} {A}".encode())) == chain_ids([A, B, A])
    assert () == chain_ids([])


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        (("linux/arm64", "linux/amd64"), "linux/amd64", 1),
        (("unknown/unknown", "linux/amd64"), "linux/amd64", 1),
        (("linux/arm/v5", "linux/arm/v7", "linux/arm/v6"), "linux/arm/v7", 1),
        (("linux/arm/v5", "linux/arm/v7", "linux/arm/v6"), "linux/arm/v6", 2),
        (("linux/arm/v7", "linux/arm64/v8"), "linux/arm64/v8", 1),
        (("linux/arm64",), "linux/arm64/v8", 0),
        (("linux/amd64/v3", "linux/amd64"), "linux/amd64", 1),
        (("windows/amd64", "linux/amd64", "linux/amd64"), "linux/amd64", 1),
        (("windows/amd64", "", ""), "linux/amd64", 1),
        (("", "linux/amd64"), "linux/amd64", 1),
    ],
)
def test_the_manifest_for_a_platform(offered: tuple[str, ...], wanted: str, chosen: int) -> None:
    """Of those that a machine can run, the one of the highest variant is chosen, and of equal ones the first."""
    assert chosen == choose(index(*offered), Platform(*wanted.split("/"))).size


def test_no_manifest_for_a_platform() -> None:
    """What is missing, and what there is, are named."""
    with pytest.raises(NotFound, match="linux/arm64, windows/amd64 that fits 'linux/amd64'"):
        choose(index("windows/amd64", "linux/arm64"), Platform("linux", "amd64"))


def test_machines() -> None:
    """`uname -m` as Go's architecture name; an unknown machine keeps its name."""
    names = ("x86_64", "aarch64", "armv7l", "riscv64")
    assert ["linux/amd64", "linux/arm64/v8", "linux/arm/v7", "linux/riscv64"] == [str(this_platform(name)) for name in names]


def test_checking_content() -> None:
    """Content passes by its own digest only, in algorithms that are known."""
    assert b"x" == check(b"x", digest_of(b"x"), "it")
    for digest in (A, "md5:" + "a" * 32):
        with pytest.raises(DataLoss):
            check(b"x", digest, "it")


def test_a_platform_that_protobuf_refuses() -> None:
    """A half of a surrogate pair in a platform is replaced: it stands in messages and in verbose replies."""
    text = encoded({"os": "linux", "architecture": "\ud800", "rootfs": {"diff_ids": []}})
    assert Platform("linux", "?") == parse_config(text, 0).platform
