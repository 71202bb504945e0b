"""The exam for image services, taken by crishim's own store over a registry."""

from pathlib import Path

import pytest

from crishim.images.store import ContentStore
from crishim.interfaces.seats import ImageService
from crishim.system import SystemClock
from crishim.testing.conformance.images import ImageServiceConformance
from tests.backends.runc.world import needs
from tests.node.registry import File, Layout, Registry, folder, tar_of


@pytest.mark.node
@needs("skopeo", "docker-registry")
class TestContentStore(ImageServiceConformance):
    """The store keeps the contract."""

    @pytest.fixture(autouse=True)
    def pushed(self, registry: Registry, layout: Layout) -> None:
        """The registry has an image."""
        layout.image([tar_of(folder("etc"), File("etc/hello", b"hello"))], {"Cmd": ["/bin/program"]}, tag="t")
        self.reference = registry.push(layout, "t", "team/exam:1")  # type: ignore[misc]  # of this test alone
        self.missing = f"{registry.address}/team/no-such-image:1"  # type: ignore[misc]

    async def make_images(self, folder: Path) -> ImageService:
        return ContentStore(folder / "store", SystemClock())

    async def close_images(self, images: ImageService) -> None:
        assert isinstance(images, ContentStore)
        await images.close()
