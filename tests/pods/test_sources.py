import os
from pathlib import Path

import attrs
import pytest

from crishim.errors import PermissionDenied
from crishim.linux.mounts import MS_PRIVATE, mount, unmount, unmount_below
from crishim.model.container import ContainerMetadata, ContainerSpec, Mount
from crishim.model.sandbox import SandboxSpec
from crishim.model.values import ContainerId, ImageId, SandboxId
from crishim.oci.facts import BindSource
from crishim.pods.sources import bind_sources, read_in_root
from crishim.testing.harness import sandbox_config
from tests.backends.runc.world import needs

MS_SHARED = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system, and a file beside it whose path begins like the root's."""
    (tmp_path / "root-secret").write_text("secret")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "group").write_text("x" * (2 << 20))
    return tmp_path / "root"


def test_a_file_of_a_root(root: Path) -> None:
    """A file is read, also by links that are absolute or not, and a mebibyte of it at most; one that is not there is empty."""
    (root / "etc" / "absolute").symlink_to("/etc/group")
    (root / "etc" / "relative").symlink_to("../etc/group")
    sizes = [len(read_in_root(root, f"/etc/{name}")) for name in ("group", "absolute", "relative", "none")]
    assert [1 << 20, 1 << 20, 1 << 20, 0] == sizes


def test_what_is_no_file(root: Path) -> None:
    """A named pipe, which nobody will ever write, a folder and a circle of links are as good as not there."""
    os.mkfifo(root / "etc" / "pipe")
    (root / "etc" / "circle").symlink_to("circle")
    assert [b"", b"", b""] == [read_in_root(root, f"/etc/{name}") for name in ("pipe", "", "circle")]


@pytest.mark.parametrize("target", ["../../root-secret", "../../../../../../../../../../etc/hostname"])
def test_nothing_outside_is_read(root: Path, target: str) -> None:
    """A link that leads out of the root is refused, also to what only begins with the same name."""
    (root / "etc" / "passwd").symlink_to(target)
    with pytest.raises(PermissionDenied):
        read_in_root(root, "/etc/passwd")


@pytest.mark.node
@needs()
def test_how_a_source_propagates(tmp_path: Path) -> None:
    """A source propagates as the mount does in which it is seen, not as one that this hides; a missing one is made."""
    for flags in (MS_SHARED, MS_PRIVATE):
        mount("tmpfs", tmp_path, "tmpfs")
        mount("", tmp_path, flags=flags)
    try:
        spec = container_spec(Mount(container_path="/data", host_path=str(tmp_path / "made")))
        expected = BindSource(path=str(tmp_path / "made"), shared=False, slave=False)
        assert {"/data": expected} == bind_sources(spec)
        unmount(tmp_path)
        assert {"/data": attrs.evolve(expected, shared=True)} == bind_sources(spec)
    finally:
        unmount_below(tmp_path)


def container_spec(*mounts: Mount) -> ContainerSpec:
    """A container with these mounts."""
    sandbox = SandboxSpec(id=SandboxId("5" * 64), config=sandbox_config())
    return ContainerSpec(
        id=ContainerId("c" * 64),
        sandbox=sandbox,
        metadata=ContainerMetadata("main"),
        image_id=ImageId("sha256:1"),
        argv=("/bin/app",),
        mounts=mounts,
    )
