"""The pause image."""

from collections.abc import AsyncIterator

import pytest

from crishim.backends.docker.engine import Engine
from crishim.backends.docker.image_files import IMAGE, PauseImage
from crishim.backends.docker.options import Options
from crishim.errors import FailedPrecondition
from tests.backends.docker.world import Dockerd, needs

pytestmark = [pytest.mark.node, needs("dockerd", "busybox", "catatonit")]


@pytest.fixture
async def connected(engine: Dockerd) -> AsyncIterator[Engine]:
    client = Engine(engine.socket)
    yield client
    client.close()


async def test_it_is_created_once(connected: Engine) -> None:
    """The pause image is created if it is missing, runs catatonit, and stays the same."""
    pause = PauseImage(connected, Options())
    await pause.make()
    first = await connected.image(IMAGE)
    await pause.make()
    assert first["Id"] == (await connected.image(IMAGE))["Id"]
    assert ["/catatonit", "-P"] == first["Config"]["Entrypoint"]


async def test_another_is_never_pulled(connected: Engine) -> None:
    """A configured pause image must be there."""
    with pytest.raises(FailedPrecondition, match=r"registry\.example/pause:1"):
        await PauseImage(connected, Options(pause_image="registry.example/pause:1")).make()
    await PauseImage(connected, Options(pause_image="exam")).make()


async def test_without_catatonit(connected: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it can be neither found nor created, the error names what is missing."""
    await PauseImage(connected, Options()).make()
    await connected.delete(f"/images/{IMAGE}", force=1)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FailedPrecondition, match="catatonit"):
        await PauseImage(connected, Options()).make()
