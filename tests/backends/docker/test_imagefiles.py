"""Looking into images."""

from pathlib import Path

import pytest

from crishim.backends.docker.imagefiles import ImageFiles
from crishim.backends.docker.observed import KIND
from crishim.errors import NotFound, PullError
from crishim.model.ids import ImageId
from tests.backends.docker.world import Dockerd, backend_at, needs

pytestmark = [pytest.mark.node, needs("dockerd", "busybox", "catatonit")]


async def test_users_are_read_once(engine: Dockerd, tmp_path: Path) -> None:
    """An image's passwd and group are read by a container that never runs, once for each image, and nothing is left of it."""
    async with backend_at(tmp_path, engine.socket) as backend:
        files, maker = backend._files, await backend._maker()
        users = await files.users(ImageId("exam"), maker)
        assert b"www:x:33:44" in users.passwd
        assert b"extra:x:50000:www" in users.group
        assert users is await files.users(ImageId("exam"), maker)
        filters = f'{{"label":["{KIND}=helper"]}}'
        assert [] == await backend._engine.get("/containers/json", all=1, filters=filters)


async def test_unknown_images(engine: Dockerd, tmp_path: Path) -> None:
    """An image that is not there is NotFound, each time; for a volume it has the kubelet's word."""
    async with backend_at(tmp_path, engine.socket) as backend:
        files, maker = ImageFiles(backend._engine), await backend._maker()
        for _ in range(2):
            with pytest.raises(NotFound):
                await files.users(ImageId("no-such"), maker)
        with pytest.raises(PullError, match="ImageVolumeMountFailed"):
            await files.unpack("no-such", tmp_path / "copy", maker)


async def test_helpers_of_a_crash_are_removed(engine: Dockerd, tmp_path: Path) -> None:
    """A helper that a crash has left is removed by the next inventory, and is no container of ours."""
    async with backend_at(tmp_path, engine.socket) as backend:
        maker = await backend._maker()
        helper = backend._files._helper("exam", maker)
        name = await helper.__aenter__()
        inventory = await backend.inventory()
        assert () == (*inventory.sandboxes, *inventory.containers)
        with pytest.raises(NotFound):
            await backend._engine.inspect(name)
        await helper.__aexit__(None, None, None)
