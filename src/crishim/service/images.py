"""The image verbs of CRI: which image service answers for which runtime handler.

A request goes by its image's `runtime_handler`, none meaning the default's. A handler without an image service of its own
uses the default's.
"""

import attrs

from crishim.errors import Code, CrishimError, InvalidArgument, Unimplemented
from crishim.interfaces.seats import ImageService
from crishim.model.image import AuthConfig, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.values import EMPTY, ImageId
from crishim.service.core import Core


class Images:
    """CRI's ImageService over ours."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list(self, wanted: ImageSpec | None) -> tuple[Image, ...]:
        """All images, or the one that the filter names. Without an image service there are none."""
        images = self._find(wanted)
        if images is None:
            return ()
        if wanted is None or not wanted.image:
            return await self._core.image_step("image list", images.list())
        detail = await self._core.image_step("image status", images.status(wanted))
        return () if detail is None else (detail.image,)

    async def status(self, wanted: ImageSpec, verbose: bool) -> ImageDetail | None:
        """One image, or None: an unknown one is no error (CRI, ImageStatus)."""
        images = self._find(wanted)
        detail = None if images is None else await self._core.image_step("image status", images.status(wanted))
        return detail if verbose or detail is None else attrs.evolve(detail, info=EMPTY)

    async def pull(self, wanted: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        """Bring an image here."""
        if not wanted.image:
            raise InvalidArgument("image.image", "is empty")
        work = self._service(wanted).pull(wanted, auth, sandbox)
        begin, code = self._core.clock.monotonic(), Code.CANCELLED
        try:
            image_id = await self._core.image_step("pull", work, forever=True)
            code = Code.OK
        except CrishimError as error:
            code = error.code
            raise
        finally:
            self._core.observer.pull_ended(code, self._core.clock.monotonic() - begin)
        return image_id

    async def remove(self, wanted: ImageSpec) -> None:
        """Remove an image with all its tags. Unknown ones are no error."""
        if (images := self._find(wanted)) is not None:
            await self._core.image_step("image removal", images.remove(wanted))

    async def fs_info(self) -> ImageFsInfo:
        """What the default's store uses."""
        return await self._core.image_step("image fs info", self._service(None).fs_info())

    def _find(self, wanted: ImageSpec | None) -> ImageService | None:
        handler = wanted.runtime_handler if wanted else ""
        if handler:
            self._core.backends.get(handler)
        return self._core.image_service(handler)

    def _service(self, wanted: ImageSpec | None) -> ImageService:
        images = self._find(wanted)
        if images is None:
            raise Unimplemented("images", "no image service was given to this runtime")
        return images
