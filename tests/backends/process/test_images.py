import json
from pathlib import Path

import attrs
import pytest

from crishim.backends.process import HostImages
from crishim.backends.process.images import image_id, normalised
from crishim.errors import InvalidArgument, NotFound
from crishim.interfaces.backend import BackendContext
from crishim.model.image import Image, ImageConfig, ImageSpec
from crishim.system import SystemClock

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def context(tmp_path: Path) -> BackendContext:
    return BackendContext(state=tmp_path / "state", runtime_state=tmp_path / "run", clock=SystemClock())


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("me/tool", "docker.io/me/tool:latest"),
        ("localhost/tool", "localhost/tool:latest"),
        ("localhost:5000/tool:v1", "localhost:5000/tool:v1"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
    ],
)
def test_references_are_normalised(reference: str, name: str) -> None:
    """Short references mean docker.io, library and latest; a digest makes a tag void."""
    assert name == normalised(reference)
    assert name == normalised(name)


async def test_every_reference_is_answered_for(context: BackendContext) -> None:
    """A pull remembers the name, under an id of its own; status and list show it, with a note that nothing was pulled."""
    service = HostImages(context)
    assert None is await service.status(ImageSpec(image="busybox"))
    assert () == await service.list()
    pulled = await service.pull(ImageSpec(image="busybox"), None, None)
    assert pulled == image_id("docker.io/library/busybox:latest")
    image = Image(id=pulled, repo_tags=("docker.io/library/busybox:latest",), size=1)
    assert (image,) == await service.list()
    for name in ("busybox:latest", "docker.io/library/busybox", pulled, pulled[7:], pulled[:20], pulled[7:20]):
        detail = await service.status(ImageSpec(image=name))
        assert detail is not None
        assert (image, ImageConfig()) == (detail.image, detail.config)
        assert "no image is pulled" in json.loads(detail.info["info"])["note"]
    assert pulled == await service.pull(ImageSpec(image=pulled), None, None)


async def test_a_digest_is_shown_as_one(context: BackendContext) -> None:
    """An image pulled by digest has a digest and no tag."""
    service = HostImages(context)
    pulled = await service.pull(ImageSpec(image=f"busybox@{DIGEST}"), None, None)
    image = Image(id=pulled, repo_digests=(f"docker.io/library/busybox@{DIGEST}",), size=1)
    assert (image,) == await service.list()


async def test_what_was_removed_is_gone(context: BackendContext) -> None:
    """A removal, by any of its names, is shown at once; unknown images are no error."""
    service = HostImages(context)
    one = await service.pull(ImageSpec(image="one"), None, None)
    two = await service.pull(ImageSpec(image="two"), None, None)
    await service.remove(ImageSpec(image=one))
    await service.remove(ImageSpec(image=one))
    await service.remove(ImageSpec(image=""))
    assert [two] == [image.id for image in await service.list()]
    assert None is await service.status(ImageSpec(image="one"))
    await service.remove(ImageSpec(image="docker.io/library/two"))
    assert () == await service.list()


async def test_names_survive_a_restart(context: BackendContext) -> None:
    """What was pulled and not removed is there for the next service of the same folder."""
    service = HostImages(context)
    for name in ("one", "two"):
        await service.pull(ImageSpec(image=name), None, None)
    await service.remove(ImageSpec(image="one"))
    assert ["docker.io/library/two:latest"] == [image.repo_tags[0] for image in await HostImages(context).list()]


@pytest.mark.parametrize("reference", ["", "a b", "a\n", "\xe9", "a\0"])
async def test_what_is_no_name_is_refused(context: BackendContext, reference: str) -> None:
    """Nothing can be called so: a pull is InvalidArgument, a status finds nothing."""
    service = HostImages(context)
    with pytest.raises(InvalidArgument):
        await service.pull(ImageSpec(image=reference), None, None)
    assert None is await service.status(ImageSpec(image=reference))


async def test_an_unknown_id_cannot_be_pulled(context: BackendContext) -> None:
    """An id is no name to pull from."""
    with pytest.raises(NotFound):
        await HostImages(context).pull(ImageSpec(image=DIGEST), None, None)


async def test_an_ambiguous_prefix_matches_nothing(context: BackendContext) -> None:
    """A beginning that several ids share names none of them."""
    service = HostImages(context)
    ids = [await service.pull(ImageSpec(image=f"image{number}"), None, None) for number in range(20)]
    (first, *_) = sorted({found[7] for found in ids if sum(other[7] == found[7] for other in ids) > 1})
    assert None is await service.status(ImageSpec(image=f"sha256:{first}"))


async def test_the_store_is_a_file(context: BackendContext) -> None:
    """The usage is that of the file of names, on a file system that exists before and after the first pull."""
    service = HostImages(context)
    (before,) = (await service.fs_info()).image_filesystems
    assert (0, 0, str(context.state.parent)) == (before.used_bytes, before.inodes_used, before.mountpoint)
    await service.pull(ImageSpec(image="one"), None, None)
    (after,) = (await service.fs_info()).image_filesystems
    size = (context.state / "images.json").stat().st_size
    assert attrs.evolve(after, timestamp=0) == attrs.evolve(
        after, timestamp=0, used_bytes=size, inodes_used=1, mountpoint=str(context.state)
    )
    assert after.timestamp >= before.timestamp > 0
