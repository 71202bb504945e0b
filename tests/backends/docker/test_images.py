"""The engine's images in CRI's seat, pulled from a registry of our own."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import attrs
import pytest

from crishim.backends.docker.engine import Engine
from crishim.backends.docker.images import DockerImages, config_of, names_of
from crishim.backends.docker.options import Options
from crishim.errors import CrishimError, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from crishim.interfaces.seats import ImageService
from crishim.model.image import AuthConfig, Image, ImageConfig, ImageSpec
from crishim.model.values import FrozenDict
from crishim.system import SystemClock
from crishim.testing.conformance.images import ImageServiceConformance
from tests.backends.docker.node import SLEEPS, Node
from tests.backends.docker.world import Dockerd, needs
from tests.backends.runc.world import needs as needs_tools
from tests.node import registry as registries
from tests.node.registry import Layout, Registry, serving, tar_of

pytestmark = [pytest.mark.node, needs("dockerd", "busybox", "catatonit"), needs_tools("docker-registry", "skopeo")]

CONFIG = {"Entrypoint": ["/app"], "Cmd": ["--x"], "Env": ["A=b"], "User": "1002:5", "WorkingDir": "/w", "StopSignal": "SIGINT"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with two images, one of them under two names."""
    place = tmp_path_factory.mktemp("shelf")
    layout = Layout(place / "layout")
    layout.image([tar_of(registries.File("one", b"1" * 5000))], CONFIG, tag="one")
    layout.image([tar_of(registries.File("two", b"2" * 5000))], {"User": "somebody"}, tag="two")
    with serving(place / "registry") as running:
        running.push(layout, "one", "a/one:1")
        running.push(layout, "one", "a/one:2")
        running.push(layout, "two", "b/two:1")
        yield running


@pytest.fixture
async def images(engine: Dockerd) -> AsyncIterator[DockerImages]:
    """The engine's images, without those of the shelf at the end."""
    service = DockerImages(Engine(engine.socket), SystemClock(), Options(socket=engine.socket))
    try:
        yield service
    finally:
        for image in await service.list():
            if any(name.startswith("127.0.0.1:") for name in (*image.repo_tags, *image.repo_digests)):
                with contextlib.suppress(CrishimError):
                    await service.remove(ImageSpec(image=image.id))
        service.close()


class TestExam(ImageServiceConformance):
    """The engine's images keep the contract of `ImageService`."""

    @pytest.fixture(autouse=True)
    def on(self, engine: Dockerd, shelf: Registry) -> None:
        """Use the engine of the session, and an image of the shelf."""
        self._engine = engine
        self.reference = f"{shelf.address}/b/two:1"  # type: ignore[misc]  # of this test alone
        self.missing = f"{shelf.address}/b/nothing:1"  # type: ignore[misc]

    async def make_images(self, folder: Path) -> ImageService:
        return DockerImages(Engine(self._engine.socket), SystemClock(), Options(socket=self._engine.socket))

    async def close_images(self, images: ImageService) -> None:
        assert isinstance(images, DockerImages)
        images.close()


async def named(images: DockerImages, text: str) -> Image | None:
    detail = await images.status(ImageSpec(image=text))
    return None if detail is None else detail.image


async def test_an_image_by_all_its_names(images: DockerImages, shelf: Registry) -> None:
    """Id, beginning of the id, tag and digest name the same image; PullImage's answer is its id."""
    name = f"{shelf.address}/a/one:1"
    image_id = await images.pull(ImageSpec(image=name), None, None)
    image = await named(images, name)
    assert image is not None
    assert image_id == image.id
    assert ((name,), 1002, "", False) == (image.repo_tags, image.uid, image.username, image.pinned)
    assert image.size > 0
    assert [image] * 4 == [
        await named(images, text) for text in (image.id, image.id.removeprefix("sha256:"), image.id[:20], image.repo_digests[0])
    ]
    assert image in await images.list()
    assert image_id == await images.pull(ImageSpec(image=image.repo_digests[0]), None, None)


async def test_what_an_image_says(images: DockerImages, shelf: Registry) -> None:
    """An image's configuration is what CreateContainer resolves with."""
    await images.pull(ImageSpec(image=f"{shelf.address}/a/one:1"), None, None)
    detail = await images.status(ImageSpec(image=f"{shelf.address}/a/one:1"))
    assert detail is not None
    assert ("/app",) == detail.config.entrypoint
    assert (("--x",), ("A=b",), "/w", "1002:5", "SIGINT") == (
        detail.config.cmd,
        detail.config.env,
        detail.config.working_dir,
        detail.config.user,
        detail.config.stop_signal,
    )
    assert "imageSpec" in detail.info["info"]


async def test_a_removal_takes_all_names(images: DockerImages, shelf: Registry) -> None:
    """Removing an image by one of its names removes it whole, also concurrently; an unknown image is no error."""
    for tag in ("1", "2"):
        await images.pull(ImageSpec(image=f"{shelf.address}/a/one:{tag}"), None, None)
    image = await named(images, f"{shelf.address}/a/one:2")
    assert image is not None
    assert 2 == len(image.repo_tags)
    wanted = ImageSpec(image=f"{shelf.address}/a/one:1")
    await asyncio.gather(*(images.remove(wanted) for _ in range(5)))
    assert None is await named(images, image.id)
    assert image.id not in {listed.id for listed in await images.list()}
    await images.remove(wanted)


@pytest.mark.parametrize("by", ["id", "digits", "prefix", "tag", "digest"])
async def test_a_removal_by_any_name(images: DockerImages, shelf: Registry, by: str) -> None:
    """An image of two tags is removed whole by its id, the beginning of it, a tag or its digest."""
    for tag in ("1", "2"):
        await images.pull(ImageSpec(image=f"{shelf.address}/a/one:{tag}"), None, None)
    image = await named(images, f"{shelf.address}/a/one:2")
    assert image is not None
    names = {
        "id": image.id,
        "digits": image.id[7:],
        "prefix": image.id[7:19],
        "tag": image.repo_tags[0],
        "digest": image.repo_digests[0],
    }
    await images.remove(ImageSpec(image=names[by]))
    assert [None] * len(names) == [await named(images, name) for name in names.values()]


async def test_pulls_of_one_image_are_one(images: DockerImages, shelf: Registry) -> None:
    """Pulls of one reference share their work; a caller who leaves does not end it for the others."""
    wanted = ImageSpec(image=f"{shelf.address}/b/two:1")
    pulls = [asyncio.create_task(images.pull(wanted, None, None)) for _ in range(4)]
    await asyncio.sleep(0)
    assert 1 == len(images._pulls)
    pulls[0].cancel()
    done = await asyncio.gather(*pulls[1:])
    assert 1 == len(set(done))
    image = await named(images, done[0])
    assert image is not None
    assert (None, "somebody") == (image.uid, image.username)
    assert {} == images._pulls


@pytest.mark.parametrize("name", ["a/none:1", "no/such:1"])
async def test_what_a_registry_has_not(images: DockerImages, shelf: Registry, name: str) -> None:
    """An image that the registry has not is NotFound, and nothing is left of the pull."""
    with pytest.raises(NotFound):
        await images.pull(ImageSpec(image=f"{shelf.address}/{name}"), None, None)
    assert {} == images._pulls


async def test_a_registry_that_is_away(images: DockerImages) -> None:
    """A registry that does not answer fails the pull with the engine's message."""
    with pytest.raises(CrishimError, match="refused"):
        await images.pull(ImageSpec(image="127.0.0.1:1/a/b:1"), None, None)


async def test_credentials(images: DockerImages, tmp_path: Path) -> None:
    """A registry that wants credentials gets them, as a pair or packed; without them the pull fails."""
    layout = Layout(tmp_path / "layout")
    layout.image([tar_of(registries.File("secret", b"s"))], tag="secret")
    with serving(tmp_path / "registry", auth=True) as closed:
        name = ImageSpec(image=closed.push(layout, "secret", "a/secret:1"))
        with pytest.raises(CrishimError):
            await images.pull(name, None, None)
        packed = AuthConfig(auth="c29tZWJvZHk6YSBzZWNyZXQ=")
        for auth in (AuthConfig(username=registries.USER, password=registries.PASSWORD), packed):
            image_id = await images.pull(name, auth, None)
            await images.remove(ImageSpec(image=image_id))


async def test_a_pull_that_does_not_move(engine: Dockerd) -> None:
    """A pull without progress is ended."""
    images = DockerImages(Engine(engine.socket), SystemClock(), Options(socket=engine.socket, pull_stall=1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeadlineExceeded):
            await images.pull(ImageSpec(image=f"{address}/a/b:1"), None, None)
    images.close()


async def test_a_pull_that_was_left(tmp_path: Path) -> None:
    """Who asks for an image just when the last of a pull's callers leaves gets a pull of their own."""
    requests: asyncio.Queue[bytes] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b"/version" not in head:
                requests.put_nowait(head)
                await reader.read()
                break
            body = b'{"ApiVersion":"1.41","MinAPIVersion":"1.12"}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    images = DockerImages(Engine(str(tmp_path / "s")), SystemClock(), Options(pull_stall=1))
    async with await asyncio.start_unix_server(talk, tmp_path / "s"):
        first = asyncio.create_task(images.pull(ImageSpec(image="a:1"), None, None))
        await requests.get()
        first.cancel()
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await images.pull(ImageSpec(image="a:1"), None, None)
        assert (True, 1, {}) == (first.cancelled(), requests.qsize(), images._pulls)
        images.close()


async def test_an_image_in_use(engine: Dockerd, tmp_path: Path) -> None:
    """The engine cannot remove what a running container uses: that is refused, and nothing is changed."""
    async with Node(tmp_path, engine.socket).running() as node:
        await node.container(await node.sandbox(), "main", SLEEPS)
        with pytest.raises(FailedPrecondition, match="in use"):
            await node.services.images.remove(ImageSpec(image="exam"))
        assert "docker.io/library/exam:latest" in {
            tag for image in await node.services.images.list(None) for tag in image.repo_tags
        }
        await node.clear()


async def test_the_pause_image_is_pinned(engine: Dockerd, tmp_path: Path) -> None:
    """The pause image is created for the first pod, and pinned: the kubelet does not remove it."""
    async with Node(tmp_path, engine.socket).running() as node:
        await node.sandbox()
        assert ["localhost/crishim/pause:1"] == [
            tag for image in await node.services.images.list(None) if image.pinned for tag in image.repo_tags
        ]
        await node.clear()


async def test_where_images_lie(images: DockerImages, engine: Dockerd) -> None:
    """The store's file system is the engine's folder, with what the layers take."""
    (usage,) = (await images.fs_info()).image_filesystems
    assert str(engine.place / "data") == usage.mountpoint
    assert (usage.used_bytes or 0) > 1 << 20
    assert usage.timestamp > 0


async def test_no_name(images: DockerImages) -> None:
    """What no image can be called is refused."""
    with pytest.raises(InvalidArgument):
        await images.status(ImageSpec(image="Not A Name"))


def test_names_in_full() -> None:
    """The engine's short names are returned in full; its "none" and invalid names are left out."""
    names = ["busybox:1", "No Name:1", "quay.io/a/b@sha256:" + "a" * 64, "<none>:<none>", "<none>@<none>"]
    assert ("docker.io/library/busybox:1", "quay.io/a/b@sha256:" + "a" * 64) == names_of(names)
    assert () == names_of(None)


def test_an_image_that_says_nothing() -> None:
    """Missing and null parts of a configuration are empty."""
    assert ImageConfig() == config_of({}) == config_of({"Config": {"Cmd": None, "Env": None}})
    labelled = config_of({"Config": {"Labels": {"a": "b"}, "Volumes": {"/data": {}}}})
    assert attrs.evolve(ImageConfig(), labels=FrozenDict({"a": "b"}), volumes=("/data",)) == labelled


def test_texts_that_protobuf_refuses() -> None:
    """Halves of surrogate pairs are replaced wherever a configuration has them, as in our own store."""
    half = "\ud800"
    config = config_of({"Config": {"User": half, "Env": [half], "Labels": {half: half}, "Entrypoint": [half]}})
    expected = ImageConfig(user="?", env=("?",), entrypoint=("?",), labels=FrozenDict({"?": "?"}))
    assert expected == config
