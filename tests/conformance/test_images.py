"""The exam for image services, taken by those without a registry; it fails those that are wrong in one thing."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs
import pytest

from crishim.backends.process.images import HostImages
from crishim.errors import NotFound
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.seats import ImageService
from crishim.model.image import AuthConfig, FilesystemUsage, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.values import ImageId
from crishim.system import SystemClock
from crishim.testing.conformance import candidate
from crishim.testing.conformance.images import ImageServiceConformance
from crishim.testing.fakes import FakeImages

REFERENCE: Final = "registry.example/web:1"
MISSING: Final = "registry.example/nothing:1"


class TestHostImages(ImageServiceConformance):
    """The references of the process backend keep the contract; all of them can be pulled."""

    reference = REFERENCE

    async def make_images(self, folder: Path) -> ImageService:
        return HostImages(BackendContext(state=folder, runtime_state=folder, clock=SystemClock()))


class Fake(FakeImages):
    """Images in memory, of which one cannot be pulled; `restart` is called when they were built again."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals[MISSING] = NotFound("image", MISSING)

    def restart(self) -> None:
        """Keep everything."""


class TestFakeImages(ImageServiceConformance):
    """The fake keeps the contract: the test has its state."""

    reference, missing = REFERENCE, MISSING
    kind: type[Fake] = Fake
    built: Fake | None = None

    async def make_images(self, folder: Path) -> ImageService:
        if self.built is None:
            self.built = self.kind()
        else:
            self.built.restart()
        return self.built


class ReturnsTheReference(Fake):
    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        await super().pull(image, auth, sandbox)
        return ImageId(image.image)


class Sizeless(Fake):
    async def status(self, image: ImageSpec) -> ImageDetail | None:
        detail = await super().status(image)
        return detail and attrs.evolve(detail, image=attrs.evolve(detail.image, size=0))


class KnowsIds(Fake):
    async def status(self, image: ImageSpec) -> ImageDetail | None:
        return await super().status(image) if image.image.startswith("sha256:") else None


class AddsEachPull(Fake):
    async def list(self) -> tuple[Image, ...]:
        return (await super().list()) * len(self.pulls)


class PullsMissing(Fake):
    def __init__(self) -> None:
        super().__init__()
        self.refusals.clear()


class ShowsMissing(Fake):
    async def status(self, image: ImageSpec) -> ImageDetail | None:
        unknown = ImageDetail(image=Image(id=ImageId("sha256:0"), size=1))
        return unknown if image.image == "sha256:" + "f" * 64 else await super().status(image)


class NewDigests(Fake):
    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        self.pulls.append(image.image)
        if image.image in self.refusals:
            raise self.refusals[image.image]
        return self.add(image.image)


class OnePullAtATime(Fake):
    pulling = False

    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        if self.pulling:
            raise RuntimeError("another pull is under way")
        self.pulling = True
        await asyncio.sleep(0)
        self.pulling = False
        return await super().pull(image, auth, sandbox)


class KeepsItsLock(Fake):
    """A pull takes some time; one that is cancelled after its first tenth blocks the next."""

    locked = False

    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        if self.locked:
            raise RuntimeError("another pull is under way")
        await asyncio.sleep(0.02)
        self.locked = True
        await asyncio.sleep(0.2)
        self.locked = False
        return await super().pull(image, auth, sandbox)


class PullsOnWhenCancelled(Fake):
    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            await asyncio.Future()
        return await super().pull(image, auth, sandbox)


class WholeNames(Fake):
    """It shows a short name as the whole one, as a right service does."""

    async def status(self, image: ImageSpec) -> ImageDetail | None:
        return await super().status(attrs.evolve(image, image=REFERENCE if image.image == "web:1" else image.image))

    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        return await super().pull(ImageSpec(image=REFERENCE), auth, sandbox)


class KeepsTags(Fake):
    async def remove(self, image: ImageSpec) -> None:
        """Keep what is named by an id."""
        if not image.image.startswith("sha256:"):
            await super().remove(image)


class RemovesOnce(Fake):
    async def remove(self, image: ImageSpec) -> None:
        if await self.status(image) is None:
            raise NotFound("image", image.image)
        await super().remove(image)


class NoFileSystem(Fake):
    async def fs_info(self) -> ImageFsInfo:
        return ImageFsInfo(image_filesystems=(FilesystemUsage(timestamp=1, mountpoint="/no/such/folder"),))


class Forgets(Fake):
    def restart(self) -> None:
        self.details.clear()


MUTANTS: Final[Mapping[str, tuple[type[Fake], str]]] = {
    "a pull returns the reference": (ReturnsTheReference, "pull_returns_the_id"),
    "no image has a size": (Sizeless, "pull_returns_the_id"),
    "tags are unknown": (KnowsIds, "every_name_is_known"),
    "a second pull adds an image": (AddsEachPull, "list_has_each_image_once"),
    "every image is present": (ShowsMissing, "missing_image_has_no_status"),
    "a missing image is pulled": (PullsMissing, "missing_image_cannot_be_pulled"),
    "a pull by digest is another image": (NewDigests, "digest_can_be_pulled"),
    "a second pull at once fails": (OnePullAtATime, "pulls_at_once_agree"),
    "a cancelled pull blocks the next": (KeepsItsLock, "cancelled_pull_can_be_repeated"),
    "a cancelled pull does not end": (PullsOnWhenCancelled, "cancelled_pull_can_be_repeated"),
    "a removal by id has no effect": (KeepsTags, "removal_takes_every_name"),
    "a second removal fails": (RemovesOnce, "unknown_image_is_removed"),
    "the file system has no path": (NoFileSystem, "file_systems_are_shown"),
    "a restart forgets images": (Forgets, "restart_keeps_images"),
}
"""What is wrong with each mutant, how it is built, and the check that finds it."""


@pytest.mark.parametrize("what", MUTANTS)
def test_a_mutant_fails(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails."""
    monkeypatch.setattr(candidate, "TIMEOUT", 1.0)
    make, check = MUTANTS[what]
    exam = TestFakeImages()
    exam.kind = make
    with pytest.raises((AssertionError, RuntimeError, NotFound, TimeoutError)):
        asyncio.run(exam._examine(check))


def test_a_short_reference() -> None:
    """A service that shows whole names fails for a reference that is none, and the failure says what it must be."""
    exam = TestFakeImages()
    exam.kind = WholeNames
    exam.reference = "web:1"  # type: ignore[misc]  # of this test alone
    with pytest.raises(AssertionError, match="must be fully qualified"):
        asyncio.run(exam._examine("every_name_is_known"))
