"""How often pulls ask a registry for the same content, by a real skopeo."""

import asyncio
import gzip
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.images.downloads import WAITING, Downloads
from crishim.images.manifest import Descriptor
from crishim.images.skopeo_process import PullProgress
from crishim.images.store import ContentStore
from crishim.model.image import ImageSpec
from crishim.model.values import ImageId
from crishim.system import SystemClock
from tests.backends.runc.world import needs
from tests.images.odd_registry import Answering, OddRegistry, odd_registry
from tests.node.registry import File, Layout, digest_of, tar_of
from tests.streaming.worlds import until

pytestmark = [pytest.mark.node, needs("skopeo")]

SHARED, ONE, TWO = (tar_of(File(name, name.encode() * 1000)) for name in ("shared", "one", "two"))


@pytest.fixture
def registry(layout: Layout) -> Iterator[OddRegistry]:
    layout.image([SHARED, ONE], {"Cmd": ["one"]}, tag="one")
    layout.image([SHARED, TWO], {"Cmd": ["two"]}, tag="two")
    layout.image([SHARED, ONE], {"Cmd": ["one"]}, tag="again")
    with odd_registry(layout) as running:
        yield running


def blob_of(layer: bytes) -> str:
    return f"/v2/team/image/blobs/{digest_of(gzip.compress(layer, 1, mtime=0))}"


async def test_a_pull_of_another_tag_is_one_request(store: ContentStore, registry: OddRegistry) -> None:
    """A tag of an image that is present takes one request for its manifest, beside skopeo's question for the protocol."""
    first = await store.pull(ImageSpec(image=f"{registry.address}/team/image:one"), None, None)
    registry.seen.clear()
    assert first == await store.pull(ImageSpec(image=f"{registry.address}/team/image:again"), None, None)
    assert ["/v2/", "/v2/team/image/manifests/again"] == [path for path, _ in registry.seen]


async def two_pulls(
    store: ContentStore, registry: OddRegistry, reports: list[PullProgress], go: threading.Event, asked: threading.Event
) -> "list[asyncio.Task[ImageId]]":
    """Two pulls, the second of which has reported that it waits. `asked` is set by the first one, which `go` lets go on."""
    pulls = []
    try:
        for tag in ("one", "two"):
            pulls.append(asyncio.create_task(store.pull(ImageSpec(image=f"{registry.address}/team/image:{tag}"), None, None)))
            await until(asked.is_set)
        await until(lambda: WAITING in {report.waiting for report in reports})
    finally:
        go.set()
    return pulls


async def test_pulls_of_images_with_a_common_layer_download_it_once(tmp_path: Path, registry: OddRegistry) -> None:
    """While one pull downloads a layer, another that needs it waits and reports so; both images are complete."""
    reports: list[PullProgress] = []
    store = ContentStore(tmp_path / "store", SystemClock(), progress=reports.append)
    go, asked = threading.Event(), threading.Event()

    def slow(request: Answering) -> bool:
        if request.path == blob_of(SHARED):
            asked.set()
            go.wait(60)
        return False

    registry.before = slow
    pulls = await two_pulls(store, registry, reports, go, asked)
    assert 2 == len(set(await asyncio.gather(*pulls)))
    paths = [path for path, _ in registry.seen]
    assert [1, 1, 1] == [paths.count(blob_of(layer)) for layer in (SHARED, ONE, TWO)]
    await store.close()


async def test_a_pull_that_waits_goes_on_after_a_failure(tmp_path: Path, registry: OddRegistry) -> None:
    """A pull whose layer another failed to download downloads it itself."""
    reports: list[PullProgress] = []
    store = ContentStore(tmp_path / "store", SystemClock(), progress=reports.append)
    go, asked = threading.Event(), threading.Event()

    def failing(request: Answering) -> bool:
        if request.path != blob_of(SHARED) or asked.is_set():
            return False
        asked.set()
        go.wait(60)
        return request.reply(404)

    registry.before = failing
    pulls = await two_pulls(store, registry, reports, go, asked)
    results = await asyncio.gather(*pulls, return_exceptions=True)
    assert [True, False] == [isinstance(result, Exception) for result in results]
    await store.close()


async def test_a_layer_is_waited_for_until_it_has_arrived() -> None:
    """Who waits goes on when the layer that it needs is there, and not only at the end of the other's pull."""
    downloads, waits = Downloads(), 0
    shared, own = Descriptor("sha256:a", 1), Descriptor("sha256:b", 1)
    missing = [shared]

    def waiting() -> None:
        nonlocal waits
        waits += 1

    with downloads.claimed([shared, own]) as ended:
        task = asyncio.create_task(downloads.others(lambda: missing, waiting))
        await asyncio.sleep(0)
        assert (1, False) == (waits, task.done())
        missing.clear()
        ended(shared)
        await task
    assert 1 == waits
