from pathlib import Path

import attrs
import pytest

from crishim.errors import PullError
from crishim.linux.mounts import MS_PRIVATE, mount, unmount, unmount_below
from crishim.model.container import ContainerMetadata, ContainerSpec, Mount
from crishim.model.sandbox import SandboxSpec
from crishim.model.values import ContainerId, ImageId, SandboxId
from crishim.oci.facts import BindSource
from crishim.pods.sources import bind_sources, image_source
from crishim.testing.harness import sandbox_config
from tests.backends.runc.world import needs

MS_SHARED = 1 << 20


def test_a_part_of_an_image(tmp_path: Path) -> None:
    """An image volume's sub path follows the image's own links, and nothing leads out of the image."""
    (tmp_path / "root-secret").write_text("secret")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "group").write_text("x")
    (root / "absolute").symlink_to("/etc")
    (root / "out").symlink_to("../../../root-secret")
    assert [str(root), str(root / "etc"), str(root / "etc" / "group")] == [
        image_source(root, path).path for path in ("", "/absolute", "absolute/group")
    ]
    for path in ("none", "out", "..", "etc/../../root-secret"):
        with pytest.raises(PullError, match="ImageVolumeMountFailed"):
            image_source(root, path)


@pytest.mark.node
@needs()
def test_how_a_source_propagates(tmp_path: Path) -> None:
    """A source has the propagation of its visible mount, not of a hidden one; a missing source is created."""
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
