"""The exam, taken on a real engine."""

from pathlib import Path

import attrs
import pytest

from crishim.backends.docker import DockerBackend, build
from crishim.interfaces.backend import Backend, BackendContext
from crishim.model.image import ImageSpec
from crishim.model.values import FrozenDict, ImageId
from crishim.testing.conformance import BackendConformance, Candidate
from tests.backends.docker.world import IMAGE, Dockerd, needs


@pytest.mark.node
@needs("dockerd", "busybox", "catatonit")
class TestDocker(BackendConformance):
    """The docker backend keeps the contract."""

    @pytest.fixture(autouse=True)
    def on(self, engine: Dockerd) -> None:
        """Use the engine of the session."""
        self._engine = engine

    def candidate(self, folder: Path) -> Candidate:
        candidate = super().candidate(folder)
        context = attrs.evolve(candidate.context, options=FrozenDict({"socket": self._engine.socket}))
        return attrs.evolve(candidate, context=context, image=ImageSpec(image=IMAGE), image_id=ImageId(IMAGE))

    async def make_backend(self, context: BackendContext) -> Backend:
        return build(context)

    async def close_backend(self, backend: Backend) -> None:
        assert isinstance(backend, DockerBackend)
        await backend.disconnect()
