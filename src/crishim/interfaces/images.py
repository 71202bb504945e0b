"""Where images come from, and where a container's root file system does."""

from abc import abstractmethod
from pathlib import Path
from typing import Protocol

import attrs

from crishim.model.ids import ContainerId, ImageId
from crishim.model.image import AuthConfig, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig


class ImageService(Protocol):
    """CRI's images: five verbs. Called beside each other at any time; lists and status answer from memory or a local index."""

    @abstractmethod
    async def list(self) -> tuple[Image, ...]:
        """All images, in any order. A removal shows here at once."""

    @abstractmethod
    async def status(self, image: ImageSpec) -> ImageDetail | None:
        """One image by id, unique id prefix, tag or digest; None when it is not there (which is no error in CRI)."""

    @abstractmethod
    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        """Bring an image here; the answer is its `Image.id`. Pulls of one reference share their work.

        Raises `NotFound`, `PermissionDenied`, or `PullError` with one of the kubelet's words.
        """

    @abstractmethod
    async def remove(self, image: ImageSpec) -> None:
        """Remove the image with all its tags, whichever named it. Unknown images are no error. Containers keep running."""

    @abstractmethod
    async def fs_info(self) -> ImageFsInfo:
        """What the store uses."""


@attrs.frozen(kw_only=True)
class Rootfs:
    """A container's root: a folder that is mounted and ready, and the folder that takes what the container writes."""

    path: str
    upper: str = ""


class RootfsProvider(Protocol):
    """Makes root file systems out of images: three verbs."""

    @abstractmethod
    async def prepare(self, container_id: ContainerId, image_id: ImageId, userns: str = "") -> Rootfs:
        """A writable root of the container's own. Repeating it for the same container gives the same root.

        `userns` is the path of the container's user namespace, empty for the node's: its ids are then the image's.
        """

    @abstractmethod
    async def view(self, container_id: ContainerId, image_id: ImageId, userns: str = "") -> Path:
        """A read-only mount of another image, for a volume of the container. Raises `NotFound`."""

    @abstractmethod
    async def release(self, container_id: ContainerId) -> None:
        """Unmount and delete the root and all views. Unknown containers are no error."""
