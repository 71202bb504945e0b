"""Pulls from mirrors and registries that misbehave, by a real skopeo."""

import gzip
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crishim.errors import CrishimError, DataLoss, NotFound, PermissionDenied, PullError
from crishim.images.skopeo import PullSettings
from crishim.images.skopeo_process import PullProgress
from crishim.images.store import ContentStore
from crishim.model.image import AuthConfig, ImageSpec
from crishim.model.values import ContainerId
from crishim.system import SystemClock
from tests.backends.runc.world import needs
from tests.images.odd_registry import Answering, OddRegistry, odd_registry
from tests.node.registry import File, Layout, digest_of, tar_of

pytestmark = [pytest.mark.node, needs("skopeo")]

Answerer = Callable[[Answering], bool]

NAME = "registry.example/team/image:one"
LAYERS = [tar_of(File("a", b"a" * 1000)), tar_of(File("b", b"b" * 1000))]


@pytest.fixture
def upstream(layout: Layout) -> Iterator[OddRegistry]:
    layout.image(LAYERS, {"Cmd": ["x"]}, tag="one")
    with odd_registry(layout) as registry:
        yield registry


@pytest.fixture
def mirror(layout: Layout, upstream: OddRegistry) -> Iterator[OddRegistry]:
    with odd_registry(layout) as registry:
        yield registry


@asynccontextmanager
async def configured(
    folder: Path, upstream: str, *mirrors: str, stall: float = 60.0, progress: list[PullProgress] | None = None
) -> AsyncIterator[ContentStore]:
    """A store for which `registry.example` is at `upstream`, with mirrors."""
    conf = folder / "registries.conf"
    lines = [f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n' for mirror in mirrors]
    conf.write_text(f'[[registry]]\nprefix = "registry.example"\nlocation = "{upstream}"\ninsecure = true\n' + "".join(lines))
    settings = PullSettings(registries_conf=str(conf), stall=stall)
    store = ContentStore(folder / "store", SystemClock(), settings, progress=None if progress is None else progress.append)
    try:
        yield store
    finally:
        await store.close()


def blobs_fail(status: int) -> Answerer:
    return lambda request: "/blobs/" in request.path and request.reply(status)


def all_fail(status: int) -> Answerer:
    return lambda request: request.path != "/v2/" and request.reply(status)


def second_blob_fails(request: Answering) -> bool:
    blobs = {path for path, _ in request.registry.seen if "/blobs/" in path}
    return "/blobs/" in request.path and len(blobs) > 1 and request.reply(404)


@pytest.mark.parametrize(
    "before", [blobs_fail(404), blobs_fail(500), second_blob_fails, all_fail(403), all_fail(404), all_fail(500)]
)
async def test_a_mirror_that_has_not_all_of_it(
    tmp_path: Path, upstream: OddRegistry, mirror: OddRegistry, before: Answerer
) -> None:
    """What a mirror does not give comes from the registry, and the image keeps its name."""
    mirror.before = before
    async with configured(tmp_path, upstream.address, mirror.address) as store:
        await store.pull(ImageSpec(image=NAME), None, None)
        assert [(NAME,)] == [image.repo_tags for image in await store.list()]
    assert [True, True] == [bool(registry.seen) for registry in (mirror, upstream)]


async def test_a_mirror_that_never_answers(tmp_path: Path, upstream: OddRegistry, mirror: OddRegistry) -> None:
    """A mirror that takes connections has the stall time, and then the registry is tried."""
    done = threading.Event()
    mirror.before = lambda _: done.wait(60)
    try:
        async with configured(tmp_path, upstream.address, mirror.address, stall=1.0) as store:
            await store.pull(ImageSpec(image=NAME), None, None)
            assert 1 == len(await store.list())
    finally:
        done.set()


@pytest.mark.parametrize(
    ("from_mirror", "from_upstream", "kind"),
    [
        (404, 500, NotFound),
        (403, 500, PermissionDenied),
        (404, 403, PermissionDenied),
        (500, 404, NotFound),
        (500, 500, PullError),
    ],
)
async def test_all_fail(
    tmp_path: Path, upstream: OddRegistry, mirror: OddRegistry, from_mirror: int, from_upstream: int, kind: type[CrishimError]
) -> None:
    """A clear answer counts before none, the registry's before a mirror's; the message names every endpoint that failed."""
    mirror.before, upstream.before = all_fail(from_mirror), all_fail(from_upstream)
    async with configured(tmp_path, upstream.address, mirror.address) as store:
        with pytest.raises(CrishimError) as raised:
            await store.pull(ImageSpec(image=NAME), None, None)
    assert (kind, True) == (type(raised.value), any(where.address in raised.value.message for where in (mirror, upstream)))
    assert "other endpoints failed, too" in str(raised.value)


async def test_credentials_are_for_the_registry_alone(tmp_path: Path, upstream: OddRegistry, mirror: OddRegistry) -> None:
    """A pod's credentials are for the image's registry by its name: neither a mirror nor another location is shown them."""
    shown = "Basic dTpw"

    def challenge(request: Answering) -> bool:
        if request.headers.get("Authorization") == shown:
            return False
        return request.reply(401, WWW_Authenticate='Basic realm="here"')

    upstream.before = mirror.before = challenge
    auth = AuthConfig(username="u", password="p")
    async with configured(tmp_path, upstream.address, mirror.address) as store:
        with pytest.raises(PermissionDenied):
            await store.pull(ImageSpec(image=NAME), auth, None)
        assert (True, set()) == (bool(mirror.seen), {given for _, given in (*mirror.seen, *upstream.seen)} & {shown})
        await store.pull(ImageSpec(image=f"{upstream.address}/team/image:one"), auth, None)


async def test_a_registry_that_asks_to_wait(tmp_path: Path, upstream: OddRegistry) -> None:
    """`429` with `Retry-After` is waited for, however short the stall time, and reported meanwhile with its reason."""
    count = 0

    def busy(request: Answering) -> bool:
        nonlocal count
        if "/blobs/" not in request.path or count >= 2:
            return False
        count += 1
        return request.reply(429, Retry_After="2")

    upstream.before = busy
    reports: list[PullProgress] = []
    async with configured(tmp_path, upstream.address, stall=1.5, progress=reports) as store:
        await store.pull(ImageSpec(image=NAME), None, None)
    waits = {report.waiting for report in reports if report.waiting}
    assert {f"{upstream.address} responded 429 Too Many Requests and requests a wait of 2 seconds"} == waits


async def test_a_registry_that_asks_to_wait_for_ever(
    tmp_path: Path, upstream: OddRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a bound to waiting, and the reason is in the error; the manifest's request is no other than a blob's."""
    monkeypatch.setattr("crishim.images.skopeo_process._MAX_WAIT", 2.0)
    upstream.before = lambda request: request.path != "/v2/" and request.reply(429, Retry_After="50")
    async with configured(tmp_path, upstream.address, stall=0.5) as store:
        with pytest.raises(PullError, match=r"RegistryUnavailable: .*429 Too Many Requests"):
            await store.pull(ImageSpec(image=NAME), None, None)


@pytest.mark.parametrize("has_it", [True, False])
async def test_a_layer_with_urls(
    tmp_path: Path, layout: Layout, upstream: OddRegistry, mirror: OddRegistry, *, has_it: bool
) -> None:
    """It comes from the registry where that has it, else from the first URL that has it, which is shown no credentials."""
    layer = gzip.compress(LAYERS[0], mtime=0)
    path = f"/elsewhere/{digest_of(layer)}"
    pushed = layout.image(LAYERS, {"Cmd": ["foreign"]}, tag="plain")
    manifest = json.loads((layout.place / "blobs" / "sha256" / pushed.digest[7:]).read_bytes())
    manifest["layers"][0] = {
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "digest": digest_of(layer),
        "size": len(layer),
        "urls": [f"http://{mirror.address}/nothing", f"http://{mirror.address}{path}"],
    }
    layout.tagged(layout.blob(json.dumps(manifest).encode(), pushed.media_type), "foreign")

    def registry(request: Answering) -> bool:
        if not request.headers.get("Authorization"):
            return request.reply(401, WWW_Authenticate='Basic realm="here"')
        return request.path.endswith(digest_of(layer)) and request.reply(*(200, layer) if has_it else (404, b""))

    upstream.before = registry
    mirror.before = lambda request: request.reply(*(200, layer) if request.path == path else (404, b""))
    async with configured(tmp_path, "unused.example") as store:
        auth = AuthConfig(username="u", password="p")
        await store.pull(ImageSpec(image=f"{upstream.address}/team/image:foreign"), auth, None)
        (image,) = await store.list()
        root = Path((await store.prepare(ContainerId("1" * 64), image.id)).path)
        assert (b"a" * 1000, b"b" * 1000) == ((root / "a").read_bytes(), (root / "b").read_bytes())
        await store.release(ContainerId("1" * 64))
    expected = [] if has_it else [("/nothing", ""), (path, "")]
    assert expected == mirror.seen


async def test_a_layer_that_no_registry_has(tmp_path: Path, layout: Layout, upstream: OddRegistry) -> None:
    """A layer whose URLs give something else, or nothing, fails the pull, and the image is not there."""
    pushed = layout.image(LAYERS, {"Cmd": ["foreign"]}, tag="plain")
    manifest = json.loads((layout.place / "blobs" / "sha256" / pushed.digest[7:]).read_bytes())
    manifest["layers"][0]["digest"] = digest_of(b"nowhere")
    manifest["layers"][0]["urls"] = [f"http://{upstream.address}/v2/team/image/blobs/{digest_of(LAYERS[0])}"]
    layout.tagged(layout.blob(json.dumps(manifest).encode(), pushed.media_type), "foreign")
    async with configured(tmp_path, "unused.example") as store:
        with pytest.raises(CrishimError):
            await store.pull(ImageSpec(image=f"{upstream.address}/team/image:foreign"), None, None)
        assert () == await store.list()


def without_types(registry: OddRegistry, kind: str = "") -> Answerer:
    """Manifests without their media type: without Content-Type, or with one that says nothing."""

    def answer(request: Answering) -> bool:
        if "/manifests/" not in request.path:
            return False
        wanted = request.path.rpartition("/")[2]
        index = json.loads((registry.layout.place / "index.json").read_bytes())
        tags = {item["annotations"]["org.opencontainers.image.ref.name"]: item["digest"] for item in index["manifests"]}
        digest = tags.get(wanted, wanted)
        data = (registry.layout.place / "blobs" / "sha256" / digest[7:]).read_bytes()
        return request.reply(200, data, Docker_Content_Digest=digest, **({"Content_Type": kind} if kind else {}))

    return answer


@pytest.mark.parametrize("kind", ["", "application/json", "text/plain; charset=utf-8"])
async def test_a_manifest_without_its_media_type(tmp_path: Path, upstream: OddRegistry, kind: str) -> None:
    """A registry that leaves the media type out (distribution-spec, "Pulling manifests") is pulled from all the same."""
    upstream.before = without_types(upstream, kind)
    async with configured(tmp_path, upstream.address) as store:
        await store.pull(ImageSpec(image=NAME), None, None)
        assert [(NAME,)] == [image.repo_tags for image in await store.list()]


@pytest.mark.parametrize("depth", [1, 2])
async def test_an_index_without_its_media_type(tmp_path: Path, layout: Layout, upstream: OddRegistry, depth: int) -> None:
    """So is an index without a platform, and an index within an index, which name no media type in themselves."""
    item = layout.image(LAYERS, {"Cmd": ["x"]}, tag="plain")
    inner = {"digest": item.digest, "size": item.size, "mediaType": item.media_type}
    for level in range(depth):
        blob = layout.blob(json.dumps({"schemaVersion": 2, "manifests": [inner]}).encode(), "")
        inner = {"digest": blob.digest, "size": blob.size}
        if level == depth - 1:
            layout.tagged(blob, "index")
    upstream.before = without_types(upstream)
    async with configured(tmp_path, upstream.address) as store:
        await store.pull(ImageSpec(image="registry.example/team/image:index"), None, None)
        assert [("registry.example/team/image:index",)] == [image.repo_tags for image in await store.list()]


async def test_credentials_without_a_media_type(tmp_path: Path, upstream: OddRegistry) -> None:
    """The registry is given the credentials of the request, and denies others as ever."""
    typed = without_types(upstream)
    upstream.before = lambda request: (
        typed(request)
        if request.headers.get("Authorization") == "Basic dTpw"
        else request.reply(401, WWW_Authenticate='Basic realm="here"')
    )
    async with configured(tmp_path, "unused.example") as store:
        name = f"{upstream.address}/team/image:one"
        with pytest.raises(PermissionDenied):
            await store.pull(ImageSpec(image=name), AuthConfig(username="u", password="q"), None)
        await store.pull(ImageSpec(image=name), AuthConfig(username="u", password="p"), None)
        assert [(name,)] == [image.repo_tags for image in await store.list()]


async def test_what_is_no_manifest_at_all(tmp_path: Path, upstream: OddRegistry) -> None:
    """What has no media type and is no manifest is an error that says so."""
    upstream.before = lambda request: "/manifests/" in request.path and request.reply(200, b"{}")
    async with configured(tmp_path, upstream.address) as store:
        with pytest.raises(DataLoss, match="manifest is invalid"):
            await store.pull(ImageSpec(image=NAME), None, None)
