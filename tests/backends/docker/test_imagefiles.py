"""Looking into images."""

import asyncio
import io
import tarfile
from pathlib import Path

import pytest

from crishim.backends.docker.convert import Maker
from crishim.backends.docker.engine import Engine
from crishim.backends.docker.image_files import ImageFiles
from crishim.backends.docker.observed import KIND
from crishim.backends.docker.options import EngineFacts, Options
from crishim.errors import NotFound, PullError
from crishim.model.values import ImageId
from crishim.pods.host import host
from tests.backends.docker.http_server import Served, serving
from tests.backends.docker.world import Dockerd, backend_at, needs

pytestmark = [pytest.mark.node, needs("dockerd", "busybox", "catatonit")]


VERSION = Served(200, b'{"ApiVersion":"1.41","MinAPIVersion":"1.12"}')
CREATED = Served(201, b'{"Id":"1"}')
MAKER = Maker(facts=EngineFacts(), host=host(), options=Options(), owner="owner")


def packed(*files: tuple[tarfile.TarInfo | str, bytes]) -> bytes:
    """An archive of these entries."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for entry, content in files:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


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


async def test_a_file_without_bounds() -> None:
    """Of an image's /etc/passwd, a file of any size or a link to the whole image, a mebibyte is read and no more."""
    long = packed(("passwd", b"root:x:0:0::/:\n" + b"x" * (8 << 20)))
    link = tarfile.TarInfo("passwd")
    link.type, link.linkname = tarfile.SYMTYPE, "/"
    root = tarfile.TarInfo("./")
    root.type = tarfile.DIRTYPE
    replies = [
        VERSION,
        CREATED,
        Served(200, long),
        Served(200, packed((link, b""))),
        Served(200, packed((root, b""), ("all", b"x" * 9))),
    ]
    async with serving(*replies, Served(204)) as server:
        engine = Engine(server.path)
        users = await ImageFiles(engine).users(ImageId("image"), MAKER)
        engine.close()
    assert (1 << 20, b"root:x:0:0::/:", b"") == (len(users.passwd), users.passwd[:14], users.group)


async def test_an_image_of_which_tar_has_much_to_say(tmp_path: Path) -> None:
    """Files from the future, each with a warning of tar's, are unpacked like others."""
    files = []
    for number in range(5000):
        file = tarfile.TarInfo(f"{number:0100}")
        file.mtime = 4_102_444_800
        files.append((file, b""))
    async with serving(VERSION, CREATED, Served(200, packed(*files)), Served(204)) as server:
        engine = Engine(server.path)
        await asyncio.wait_for(ImageFiles(engine).unpack("image", tmp_path / "copy", MAKER), 60)
        engine.close()
    assert 5000 == len(list((tmp_path / "copy").iterdir()))
