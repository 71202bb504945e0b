"""The conformance suite for image services.

class TestMine(ImageServiceConformance):
    reference = "registry.example/busybox:1"
    missing = "registry.example/no-such-image:1"

    async def make_images(self, folder: Path) -> ImageService:
        return MyImages(folder)
"""

import asyncio
import contextlib
import tempfile
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import ClassVar, Final

import attrs
import pytest

from crishim.errors import NotFound, PermissionDenied, PullError
from crishim.interfaces.seats import ImageService
from crishim.linux.mounts import unmount_below
from crishim.model.image import Image, ImageDetail, ImageSpec
from crishim.model.values import ImageId
from crishim.testing.conformance.candidate import equal, patiently
from crishim.testing.conformance.programs import LeftOut

__all__ = ["ImageServiceConformance", "ImageWorld"]

_CHECK_TIMEOUT: Final = 180.0
"""Seconds for one check; each of its calls also has a limit of its own."""

_PARTS: Final = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""When a pull is cancelled, as parts of the time that a whole one takes."""

_UNKNOWN: Final = "sha256:" + "f" * 64


@attrs.define
class ImageWorld:
    """An image service during one check. `reference` can be pulled, `missing` cannot; `build` is called for a restart."""

    build: Callable[[], Awaitable[ImageService]]
    close: Callable[[ImageService], Awaitable[None]]
    images: ImageService
    reference: str
    missing: str

    async def pull(self, text: str) -> ImageId:
        """Pull an image."""
        return await patiently(self.images.pull(ImageSpec(image=text), None, None))

    async def status(self, text: str) -> ImageDetail | None:
        """The status of an image."""
        return await patiently(self.images.status(ImageSpec(image=text)))

    async def here(self, text: str) -> ImageDetail:
        """The status of an image. Raises `AssertionError` if it is not present."""
        detail = await self.status(text)
        assert detail is not None, f"{text} is not present"
        return detail

    async def listed(self, image_id: str) -> list[Image]:
        """The images of the list with this id."""
        return [image for image in await patiently(self.images.list()) if image.id == image_id]

    async def ids(self) -> set[str]:
        """The ids of all images: the list has no order."""
        return {image.id for image in await patiently(self.images.list())}

    async def restart(self) -> None:
        """Close the service, and build it again over the same folder."""
        await self.close(self.images)
        self.images = await self.build()


async def check_pull_returns_the_id(world: ImageWorld) -> None:
    """pull: returns `Image.id`, by which the kubelet names the image from then on; the size is above zero."""
    image_id = await world.pull(world.reference)
    image = (await world.here(image_id)).image
    equal(image_id, image.id)
    assert image.size > 0, "clients reject an image without a size"


async def check_every_name_is_known(world: ImageWorld) -> None:
    """status: one image by id, unique id prefix, tag or digest; the detail is the same, with what CreateContainer needs."""
    image_id = await world.pull(world.reference)
    detail = await world.here(image_id)
    assert world.reference in detail.image.repo_tags, (
        f"{world.reference} is not in {detail.image.repo_tags}: `reference` must be fully qualified, with its registry and tag"
    )
    prefix = image_id.removeprefix("sha256:")[:12]
    for text in (prefix, *detail.image.repo_tags, *detail.image.repo_digests):
        equal(detail, await world.here(text))


async def check_digest_can_be_pulled(world: ImageWorld) -> None:
    """pull: a reference by digest is the same image, and stays known by its tag."""
    image_id = await world.pull(world.reference)
    for text in (await world.here(image_id)).image.repo_digests:
        equal(image_id, await world.pull(text))
    equal(image_id, (await world.here(world.reference)).image.id)


async def check_list_has_each_image_once(world: ImageWorld) -> None:
    """list: an image that was pulled twice is there once, as status shows it."""
    image_id = await world.pull(world.reference)
    equal(image_id, await world.pull(world.reference))
    equal([(await world.here(image_id)).image], await world.listed(image_id))


async def check_missing_image_has_no_status(world: ImageWorld) -> None:
    """status: None for an image that is not present, which is no error in CRI."""
    for text in (world.reference, _UNKNOWN):
        equal(None, await world.status(text))


async def check_missing_image_cannot_be_pulled(world: ImageWorld) -> None:
    """pull: raises `NotFound`, `PermissionDenied` or `PullError`, and leaves nothing in the list."""
    if not world.missing:
        raise LeftOut("every reference can be pulled: `missing` is empty")
    before = await world.ids()
    try:
        await world.pull(world.missing)
    except (NotFound, PermissionDenied, PullError):
        equal(None, await world.status(world.missing))
        equal(before, await world.ids())
        return
    raise AssertionError(f"{world.missing} was pulled")


async def check_pulls_at_once_agree(world: ImageWorld) -> None:
    """pull: concurrent pulls of one reference share the work."""
    pulled = set(await asyncio.gather(*(world.pull(world.reference) for _ in range(5))))
    equal(1, len(pulled))
    equal(1, len(await world.listed(pulled.pop())))


async def check_cancelled_pull_can_be_repeated(world: ImageWorld) -> None:
    """pull: one that was cancelled leaves nothing that a later one fails for."""
    spec, started = ImageSpec(image=world.reference), time.monotonic()
    await world.pull(world.reference)
    whole = time.monotonic() - started
    for part in _PARTS:
        await patiently(world.images.remove(spec))
        pulling = asyncio.ensure_future(world.images.pull(spec, None, None))
        await asyncio.wait({pulling}, timeout=whole * part)
        pulling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await patiently(pulling)
    assert await world.here(await world.pull(world.reference))


async def check_removal_takes_every_name(world: ImageWorld) -> None:
    """remove: the image with all its tags, whichever reference named it; it disappears from the list at once."""
    for by_id in (True, False):
        image_id = await world.pull(world.reference)
        image = (await world.here(image_id)).image
        await patiently(world.images.remove(ImageSpec(image=image_id if by_id else world.reference)))
        for text in (image_id, *image.repo_tags, *image.repo_digests):
            assert await world.status(text) is None, f"{text} is still known"
        equal([], await world.listed(image_id))


async def check_unknown_image_is_removed(world: ImageWorld) -> None:
    """remove: unknown images are no error, nor is the second removal of one."""
    image_id = await world.pull(world.reference)
    for text in (_UNKNOWN, image_id, image_id, world.reference):
        await patiently(world.images.remove(ImageSpec(image=text)))


async def check_file_systems_are_shown(world: ImageWorld) -> None:
    """fs_info: each file system with its time and a path on it, on which the kubelet calls statfs."""
    await world.pull(world.reference)
    info = await patiently(world.images.fs_info())
    assert info.image_filesystems, "no file system is shown"
    for usage in (*info.image_filesystems, *info.container_filesystems):
        assert usage.timestamp > 0
        assert Path(usage.mountpoint).exists(), f"{usage.mountpoint!r} does not exist"
        assert (usage.used_bytes or 0) >= 0


async def check_restart_keeps_images(world: ImageWorld) -> None:
    """list: an image that was pulled before a restart is there after it, by all its names."""
    before = await world.here(await world.pull(world.reference))
    await world.restart()
    equal(before.image, (await world.here(before.image.id)).image)
    equal(before.image, (await world.here(world.reference)).image)


Check = Callable[[ImageWorld], Awaitable[None]]

IMAGE_CHECKS: Final[Mapping[str, Check]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}
"""All checks by name."""


class ImageServiceConformance:
    """Inherit, set `reference`, and implement the construction of the service.

    `reference` is an image that can be pulled, fully qualified: `docker.io/library/busybox:1`, and not `busybox:1`. `missing`
    is one that cannot, empty if there is none. Either may be set by a fixture.
    """

    reference: ClassVar[str]
    missing: ClassVar[str] = ""

    @abstractmethod
    async def make_images(self, folder: Path) -> ImageService:
        """A new service; one of crishim's own process has its images below `folder`. Called again for a restart."""

    async def close_images(self, images: ImageService) -> None:
        """Close a service; for those with connections or processes."""

    @contextlib.asynccontextmanager
    async def world(self) -> AsyncIterator[ImageWorld]:
        """A service without `reference`, which is removed at the end, too: an engine's images are not below the folder."""
        with tempfile.TemporaryDirectory(prefix="exam") as name:

            async def build() -> ImageService:
                return await self.make_images(Path(name))

            world = ImageWorld(build, self.close_images, await build(), self.reference, self.missing)
            try:
                await world.images.remove(ImageSpec(image=self.reference))
                yield world
                await world.images.remove(ImageSpec(image=self.reference))
            finally:
                await self.close_images(world.images)
                unmount_below(Path(name))

    @pytest.mark.parametrize("check", list(IMAGE_CHECKS))
    def test_contract(self, check: str) -> None:
        """The service fulfils one sentence of `ImageService`'s contract."""
        try:
            asyncio.run(self._examine(check))
        except LeftOut as reason:
            pytest.skip(str(reason))

    async def _examine(self, check: str) -> None:
        async with self.world() as world, asyncio.timeout(_CHECK_TIMEOUT):
            await IMAGE_CHECKS[check](world)
