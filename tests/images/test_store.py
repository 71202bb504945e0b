import asyncio
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from crishim.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PullError,
    PullReason,
    ResourceExhausted,
    Unavailable,
)
from crishim.images.skopeo import PullSettings
from crishim.images.skopeo_process import PullProgress
from crishim.images.store import ContentStore
from crishim.linux.mounts import mount, unmount, unmount_below
from crishim.model.image import AuthConfig, ImageDetail, ImageSpec
from crishim.model.values import ContainerId, ImageId
from crishim.system import SystemClock
from crishim.testing import FakeClock
from crishim.testing.doubles import RecordingObserver
from crishim.testing.suite.node import free_port
from tests.backends.runc.world import needs
from tests.node.registry import (
    OCI_MANIFEST,
    PASSWORD,
    USER,
    File,
    Layout,
    Registry,
    digest_of,
    folder,
    serving,
    tar_of,
)
from tests.streaming.worlds import until

pytestmark = [pytest.mark.node, needs("skopeo", "docker-registry")]

C1 = ContainerId("1" * 64)
C2 = ContainerId("2" * 64)
HELLO = tar_of(folder("etc"), File("etc/hello", b"hello"), File("bin/program", b"x" * 5000, mode=0o755))
MORE = tar_of(File("etc/more", b"more"), File("etc/.wh.hello"))


async def pull(store: ContentStore, reference: str, auth: AuthConfig | None = None) -> ImageId:
    return await store.pull(ImageSpec(image=reference), auth, None)


async def status(store: ContentStore, text: str) -> ImageDetail | None:
    return await store.status(ImageSpec(image=text))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


async def test_an_image_is_pulled_and_listed(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """A pulled image has its configuration's digest as id, its tag, the registry's digest, and what its configuration says."""
    pushed = layout.image([HELLO, MORE], {"Cmd": ["/bin/program"], "User": "1002:5", "Env": ["A=b"]}, tag="t")
    reference = registry.push(layout, "t", "team/listed:1")
    image_id = await pull(store, reference)
    manifest = json.loads((layout.place / "blobs/sha256" / pushed.digest[7:]).read_bytes())
    detail = await status(store, reference)
    assert detail is not None
    assert (manifest["config"]["digest"], image_id) == (image_id, detail.image.id)
    assert ((reference,), (f"{registry.address}/team/listed@{pushed.digest}",)) == (
        detail.image.repo_tags,
        detail.image.repo_digests,
    )
    assert (1002, "") == (detail.image.uid, detail.image.username)
    assert (("/bin/program",), ("A=b",)) == (detail.config.cmd, detail.config.env)
    assert pushed.size + manifest["config"]["size"] + sum(layer["size"] for layer in manifest["layers"]) == detail.image.size
    assert (detail.image,) == await store.list()
    for text in (
        image_id,
        image_id[7:],
        image_id[:20],
        f"{registry.address}/team/listed@{pushed.digest}",
        f"{reference}@{pushed.digest}",
    ):
        assert detail == await status(store, text)
    assert None is await status(store, f"{registry.address}/team/listed:2")
    assert image_id == await pull(store, image_id)


async def test_a_root_of_its_own_for_each_container(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """Containers see the image's layers one over the other, write without seeing each other, and leave nothing on release."""
    layout.image([HELLO, MORE], tag="t")
    image_id = await pull(store, registry.push(layout, "t", "team/roots:1"))
    one, two = await store.prepare(C1, image_id), await store.prepare(C2, image_id)
    assert {"etc", "etc/more", "bin", "bin/program"} == files(Path(one.path))
    (Path(one.path) / "etc/more").write_text("changed")
    assert ("changed", "more") == ((Path(one.upper) / "etc/more").read_text(), (Path(two.path) / "etc/more").read_text())
    assert one == await store.prepare(C1, image_id)
    assert (C1, C2) == store.prepared()
    usage = await store.usage(C1)
    assert (usage.inodes_used or 0) >= 3
    await store.release(C1)
    await store.release(C1)
    await store.release(C2)
    assert ((), set()) == (store.prepared(), files(Path(one.path)))
    with pytest.raises(NotFound):
        await store.usage(C1)
    with pytest.raises(NotFound):
        await store.prepare(C1, ImageId("sha256:" + "0" * 64))


async def test_an_image_volume_is_read_only(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """A view shows an image's files, cannot be written, comes back the same, and goes with its container."""
    layout.image([HELLO], tag="t")
    image_id = await pull(store, registry.push(layout, "t", "team/views:1"))
    view = await store.view(C1, image_id)
    assert ("hello", view) == ((view / "etc/hello").read_text(), await store.view(C1, image_id))
    with pytest.raises(OSError, match="Read-only"):
        (view / "etc/hello").write_text("no")
    root = await store.prepare(C1, image_id)
    assert "hello" == (Path(root.path) / "etc/hello").read_text()
    await store.unview(C1, image_id)
    assert set() == files(view)
    await store.view(C1, image_id)
    await store.release(C1)
    assert False is view.exists()


async def test_removal_by_one_tag_removes_all(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """RemoveImage by one tag takes every tag and everything on the disk; unknown images and repetitions are no error."""
    layout.image([HELLO], tag="t")
    first, second = (registry.push(layout, "t", f"team/tags:{number}") for number in (1, 2))
    assert await pull(store, first) == await pull(store, second)
    assert [{first, second}] == [set(image.repo_tags) for image in await store.list()]
    await asyncio.gather(*(store.remove(ImageSpec(image=first)) for _ in range(3)))
    assert ((), None) == (await store.list(), await status(store, second))
    assert {"sha256"} == files(store._content.blobs)
    assert set() == files(store._content.layers)


@pytest.mark.parametrize("by", ["id", "digits", "prefix", "tag", "other tag", "digest", "other digest", "tag and digest"])
async def test_an_image_with_several_names_is_removed_by_each(
    store: ContentStore, registry: Registry, layout: Layout, by: str
) -> None:
    """One image, of two tags and two digests in two repositories, is removed whole by any name; another one stays whole."""
    pushed = layout.image([HELLO], {"Cmd": ["one"]}, tag="one")
    layout.index({os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"): pushed}, tag="index")
    layout.image([HELLO, MORE], {"Cmd": ["other"]}, tag="other")
    tag, index = registry.push(layout, "one", "several/one:1"), registry.push(layout, "index", "several/index:1")
    other = registry.push(layout, "other", "several/other:1")
    image_id = await pull(store, tag)
    assert image_id == await pull(store, index)
    other_id = await pull(store, other)
    detail = await status(store, tag)
    assert detail is not None
    first, second = detail.image.repo_digests
    names = {
        "id": image_id,
        "digits": image_id[7:],
        "prefix": image_id[7:19],
        "tag": tag,
        "other tag": index,
        "digest": first,
        "other digest": second,
        "tag and digest": f"{tag}@{first.partition('@')[2]}",
    }
    await store.remove(ImageSpec(image=names[by]))
    assert [other_id] == [image.id for image in await store.list()]
    assert [None] * len(names) == [await status(store, name) for name in names.values()]
    root = Path((await store.prepare(C1, other_id)).path)
    assert {"etc", "etc/more", "bin", "bin/program"} == files(root)
    await store.release(C1)


async def test_a_removal_beside_a_pull(tmp_path: Path, registry: Registry, layout: Layout) -> None:
    """RemoveImage frees at once what only its image needs; what a pull under way needs of it as well stays."""
    old = registry.push(layout, "t", "team/old:1") if layout.image([HELLO, MORE], {"Cmd": ["old"]}, tag="t") else ""
    layout.image([HELLO, tar_of(File("new", b"new"))], {"Cmd": ["new"]}, tag="n")
    new = registry.push(layout, "n", "team/new:1")
    program = tmp_path / "skopeo"
    program.write_text(
        f'#!/bin/sh\ncase " $*" in *" copy "*) while [ -e {tmp_path}/wait ]; do sleep 0.01; done;; esac\nexec skopeo "$@"\n'
    )
    program.chmod(0o755)
    store = ContentStore(tmp_path / "store", SystemClock(), PullSettings(program=str(program)))
    await pull(store, old)
    content = store._content
    blobs = files(content.blobs)
    layers = set(content.sizes)
    (tmp_path / "wait").touch()
    task = asyncio.create_task(pull(store, new))
    await until(lambda: any(claim.blobs for claim in store._claims))
    await store.remove(ImageSpec(image=old))
    shared = f"sha256/{digest_of(gzip.compress(HELLO, 1, mtime=0)).partition(':')[2]}"
    assert ({"sha256", shared}, 0) == (files(content.blobs) & blobs, len(layers & set(content.sizes)))
    (tmp_path / "wait").unlink()
    await task
    (image,) = await store.list()
    root = Path((await store.prepare(C1, image.id)).path)
    assert (b"hello", b"new") == ((root / "etc/hello").read_bytes(), (root / "new").read_bytes())
    await store.release(C1)
    await store.close()


async def test_a_removed_image_serves_its_containers_to_their_end(
    store: ContentStore, registry: Registry, layout: Layout, tmp_path: Path
) -> None:
    """Layers stay while a container stands on them, also over a restart, and go with the last one."""
    layout.image([HELLO], tag="t")
    image_id = await pull(store, registry.push(layout, "t", "team/stored:1"))
    root = await store.prepare(C1, image_id)
    await store.remove(ImageSpec(image=image_id))
    await store.close()
    unmount_below(tmp_path / "store")
    again = ContentStore(tmp_path / "store", SystemClock())
    assert root == await again.prepare(C1, image_id)
    assert b"hello" == (Path(root.path) / "etc/hello").read_bytes()
    await again.release(C1)
    assert set() == files(again._content.layers)
    await again.close()


async def test_a_pull_by_digest_has_no_tag(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """Pulled by digest, an image has exactly that repo digest and no tag; a tag beside the digest is dropped."""
    pushed = layout.image([HELLO], tag="t")
    reference = registry.push(layout, "t", "team/digest:1")
    await pull(store, f"{reference}@{pushed.digest}")
    (image,) = await store.list()
    assert ((), (f"{registry.address}/team/digest@{pushed.digest}",)) == (image.repo_tags, image.repo_digests)


@pytest.mark.parametrize("docker", [False, True])
async def test_an_index_gives_its_own_digest(store: ContentStore, registry: Registry, layout: Layout, docker: bool) -> None:
    """Of an index this platform's image is taken, and the repo digest is the index's; docker's schema 2 keeps its bytes."""
    images = {name: layout.image([HELLO], {"Cmd": [name]}, architecture=name, docker=docker) for name in ("amd64", "arm64")}
    index = layout.index({"s390x": images["arm64"], **images}, tag="t")
    reference = registry.push(layout, "t", f"team/index{docker:d}:1")
    await pull(store, reference)
    (image,) = await store.list()
    detail = await status(store, image.id)
    assert detail is not None
    assert (f"{registry.address}/team/index{docker:d}@{index.digest}",) == image.repo_digests
    assert ((os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),),) == (detail.config.cmd,)


@pytest.mark.parametrize("depth", [1, 2, 4])
async def test_an_index_that_names_no_platform(store: ContentStore, registry: Registry, layout: Layout, depth: int) -> None:
    """What an index leads to without a platform is taken, an index in an index too; the repo digest is the outermost one's."""
    pushed = layout.image([HELLO], {"Cmd": ["inner"], "Labels": {"half": "\ud800"}}, tag="t")
    registry.push(layout, "t", "team/nested:1")
    media_type = "application/vnd.oci.image.manifest.v1+json"
    for level in range(depth):
        descriptor = {"mediaType": media_type, "digest": pushed.digest, "size": pushed.size}
        media_type = "application/vnd.oci.image.index.v1+json"
        index = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": [descriptor]}).encode()
        registry.put(f"team/nested:n{level}", index, media_type)
        pushed = attrs.evolve(pushed, digest=digest_of(index), size=len(index))
    await pull(store, f"{registry.address}/team/nested:n{depth - 1}")
    (image,) = await store.list()
    detail = await status(store, image.id)
    assert detail is not None
    assert (f"{registry.address}/team/nested@{pushed.digest}",) == image.repo_digests
    assert (("inner",), "?") == (detail.config.cmd, detail.config.labels["half"])


async def test_a_tag_that_was_pushed_anew_moves(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """A tag names the newest image; the older one keeps its digest."""
    layout.image([HELLO], tag="a")
    layout.image([MORE], tag="b")
    reference = registry.push(layout, "a", "team/moves:1")
    older = await pull(store, reference)
    registry.push(layout, "b", "team/moves:1")
    newer = await pull(store, reference)
    assert {older: (), newer: (reference,)} == {image.id: image.repo_tags for image in await store.list()}


async def test_twenty_pulls_at_once_are_one(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """Pulls of one reference share one task, and a cancelled waiter does not stop it."""
    layout.image([HELLO], tag="t")
    reference = registry.push(layout, "t", "team/twenty:1")
    waiters = [asyncio.create_task(pull(store, reference)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 1 == len(store._pulls)
    waiters[0].cancel()
    done = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert 1 == len(set(done[1:]))


async def test_progress_is_reported(tmp_path: Path, registry: Registry, layout: Layout) -> None:
    """Progress ends with all bytes of configuration and layers; downloaded content counts as fetched, once."""
    pushed = layout.image([HELLO, tar_of(File("big", os.urandom(3_000_000)))], tag="t")
    manifest = json.loads((layout.place / "blobs/sha256" / pushed.digest[7:]).read_bytes())
    reports: list[PullProgress] = []
    observer = RecordingObserver()
    store = ContentStore(tmp_path / "store", SystemClock(), progress=reports.append, observer=observer)
    reference = registry.push(layout, "t", "team/progress:1")
    await pull(store, reference)
    await pull(store, reference)
    total = sum(item["size"] for item in (manifest["config"], *manifest["layers"]))
    assert (reference, total, total, "") == attrs.astuple(reports[-1])
    assert [("fetched", total)] == observer.calls
    await store.close()


async def test_credentials(store: ContentStore, guarded: Registry, layout: Layout) -> None:
    """Credentials of the request open a registry; wrong ones, none, and those for elsewhere are `PermissionDenied`."""
    layout.image([HELLO], tag="t")
    reference = guarded.push(layout, "t", "team/secret:1")
    right = AuthConfig(username=USER, password=PASSWORD)
    for auth in (None, attrs.evolve(right, password="wrong"), attrs.evolve(right, server_address="registry.example")):
        with pytest.raises(PermissionDenied):
            await pull(store, reference, auth)
    await pull(store, reference, attrs.evolve(right, server_address=f"http://{guarded.address}/v1/"))
    with pytest.raises(InvalidArgument):
        await pull(store, reference, AuthConfig(registry_token="t"))


async def test_credentials_of_the_node(tmp_path: Path, guarded: Registry, layout: Layout) -> None:
    """The configured authfile opens a registry for requests without credentials, and those of a request win over it."""
    layout.image([HELLO], tag="t")
    reference = guarded.push(layout, "t", "team/node:1")
    authfile = tmp_path / "auth.json"
    authfile.write_text(json.dumps({"auths": {guarded.address: {"auth": "c29tZWJvZHk6YSBzZWNyZXQ="}}}))
    store = ContentStore(tmp_path / "store", SystemClock(), PullSettings(authfile=str(authfile)))
    await pull(store, reference)
    with pytest.raises(PermissionDenied):
        await pull(store, reference, AuthConfig(username=USER, password="wrong"))
    await store.close()


async def test_what_does_not_exist(store: ContentStore, registry: Registry) -> None:
    """An unknown tag, repository or id is `NotFound`; an invalid reference is `InvalidArgument`."""
    for text in (f"{registry.address}/team/nothing:1", "sha256:" + "0" * 64, "0" * 64):
        with pytest.raises(NotFound):
            await pull(store, text)
    with pytest.raises(InvalidArgument):
        await pull(store, "No Such")


async def test_a_dead_registry(store: ContentStore) -> None:
    """A registry that is not served is `RegistryUnavailable`, the kubelet's reason."""
    with pytest.raises(PullError) as caught:
        await pull(store, f"127.0.0.1:{free_port()}/team/x:1")
    assert PullReason.REGISTRY_UNAVAILABLE == caught.value.reason


async def test_a_policy_that_refuses(tmp_path: Path, registry: Registry, layout: Layout) -> None:
    """An image that the signature policy refuses is `SignatureValidationFailed`, and is not here afterwards."""
    layout.image([HELLO], tag="t")
    reference = registry.push(layout, "t", "team/policy:1")
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "reject"}]}))
    store = ContentStore(tmp_path / "store", SystemClock(), PullSettings(policy=str(policy)))
    with pytest.raises(PullError) as caught:
        await pull(store, reference)
    assert (PullReason.SIGNATURE_VALIDATION_FAILED, ()) == (caught.value.reason, await store.list())
    await store.close()


async def test_mirrors(tmp_path: Path, registry: Registry, layout: Layout) -> None:
    """A mirror of registries.conf serves an image under its own name, and an image that it lacks is `NotFound`."""
    layout.image([HELLO], tag="t")
    registry.push(layout, "t", "mirrored/image:1")
    conf = tmp_path / "registries.conf"
    conf.write_text(
        '[[registry]]\nprefix = "registry.example"\nlocation = "registry.example"\n'
        f'[[registry.mirror]]\nlocation = "{registry.address}/mirrored"\ninsecure = true\n'
    )
    store = ContentStore(tmp_path / "store", SystemClock(), PullSettings(registries_conf=str(conf)))
    await pull(store, "registry.example/image:1")
    assert [("registry.example/image:1",)] == [image.repo_tags for image in await store.list()]
    with pytest.raises(NotFound):
        await pull(store, "registry.example/nothing:1")
    await store.close()


@pytest.mark.parametrize("broken", ["blobs", "silent"])
async def test_a_mirror_that_has_half_or_never_answers(tmp_path: Path, registry: Registry, layout: Layout, broken: str) -> None:
    """Where a mirror's blobs are missing, or nothing comes from it, the image comes from its registry."""
    layout.image([HELLO], tag="t")
    registry.push(layout, "t", "team/upstream:1")
    with serving(tmp_path / "mirror") as mirror, socket.create_server(("127.0.0.1", 0)) as silent:
        mirror.push(layout, "t", "team/upstream:1")
        for blob in (mirror.place / "data/docker/registry/v2/repositories/team/upstream/_layers").rglob("link"):
            blob.unlink()
        address = mirror.address if broken == "blobs" else f"127.0.0.1:{silent.getsockname()[1]}"
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nprefix = "up.example"\nlocation = "{registry.address}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{address}"\ninsecure = true\n'
        )
        store = ContentStore(tmp_path / "store", SystemClock(), PullSettings(registries_conf=str(conf), stall=1.0))
        await pull(store, "up.example/team/upstream:1")
        assert [("up.example/team/upstream:1",)] == [image.repo_tags for image in await store.list()]
        await store.close()


async def test_a_missing_skopeo(tmp_path: Path) -> None:
    """Without skopeo a pull says which package has it."""
    store = ContentStore(tmp_path / "store", SystemClock(), PullSettings(program="no-such-skopeo"))
    with pytest.raises(Unavailable, match="apt-get install skopeo"):
        await pull(store, "registry.example/x")
    await store.close()


async def test_a_pull_that_stands_still_ends(tmp_path: Path) -> None:
    """A pull without a byte for a minute is `RegistryUnavailable`, and its process is gone."""
    program = tmp_path / "skopeo"
    pidfile = tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {pidfile}.new; mv {pidfile}.new {pidfile}; exec sleep 1000\n")
    program.chmod(0o755)
    clock = FakeClock()
    store = ContentStore(tmp_path / "store", clock, PullSettings(program=str(program)))
    task = asyncio.create_task(pull(store, "registry.example/x"))
    while not task.done():
        await clock.advance(1.0 if pidfile.exists() else 0)
        await asyncio.sleep(0.001)
    with pytest.raises(PullError, match=r"no data for 6\d seconds"):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pidfile.read_text()), 0)
    await store.close()


async def test_a_layer_that_is_not_what_the_image_promises(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """A layer with another diff id than its image's is `DataLoss`; no image, layer or blob of that layer stays."""
    layout.image([HELLO], tag="t", diff_ids=[digest_of(b"something else")])
    reference = registry.push(layout, "t", "team/lies:1")
    with pytest.raises(DataLoss):
        await pull(store, reference)
    assert ((), set()) == (await store.list(), files(store._content.layers))
    assert False is store._content.blob(digest_of(gzip.compress(HELLO, 1, mtime=0))).exists()


async def test_a_corrupt_blob_at_the_registry(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """A blob whose bytes are not its digest's is `DataLoss`, and the pull works once the registry is well."""
    data = tar_of(File("big", os.urandom(100_000)))
    layout.image([data], tag="t")
    reference = registry.push(layout, "t", "team/corrupt:1")
    blob = registry.blob_file(digest_of(gzip.compress(data, 1, mtime=0)))
    good = blob.read_bytes()
    blob.write_bytes(good[:-100] + bytes(100))
    with pytest.raises(DataLoss):
        await pull(store, reference)
    assert () == await store.list()
    blob.write_bytes(good)
    await pull(store, reference)


async def test_a_corrupt_blob_of_ours(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """A blob that was corrupted on disk is `DataLoss` once, and is downloaded again by the next pull."""
    layout.image([HELLO], tag="t")
    reference = registry.push(layout, "t", "team/spoilt:1")
    blob = store._content.blob(digest_of(gzip.compress(HELLO, 1, mtime=0)))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"spoilt")
    with pytest.raises(DataLoss):
        await pull(store, reference)
    await pull(store, reference)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    mount("tmpfs", place, "tmpfs", 0, f"size={size}")
    try:
        yield place
    finally:
        unmount_below(place)
        unmount(place)


@pytest.mark.parametrize("size", ["1m", "6m"])
async def test_a_full_disk(tmp_path: Path, registry: Registry, layout: Layout, size: str) -> None:
    """A disk that fills while blobs come or while layers are unpacked is `ResourceExhausted`, and nothing half is visible."""
    layout.image([tar_of(File("random", os.urandom(2_000_000)), File("zeros", bytes(20_000_000)))], tag="t")
    reference = registry.push(layout, "t", "team/full:1")
    with small_disk(tmp_path / "disk", size) as disk:
        store = ContentStore(disk / "store", SystemClock())
        with pytest.raises(ResourceExhausted):
            await pull(store, reference)
        assert ((), set(), set()) == (await store.list(), files(store._content.layers), files(store._content.tmp))
        await store.close()


async def test_a_restart_finds_what_was_there(tmp_path: Path, registry: Registry, layout: Layout) -> None:
    """After a restart the images are the same, garbage is gone, and whole blobs of an interrupted pull are still there."""
    layout.image([HELLO, MORE], tag="t")
    reference = registry.push(layout, "t", "team/restart:1")
    store = ContentStore(tmp_path / "store", SystemClock())
    await pull(store, reference)
    before = await store.list()
    content = store._content
    with pytest.raises(FailedPrecondition):
        ContentStore(tmp_path / "store", SystemClock())
    await store.close()
    (content.tmp / "work" / "fs").mkdir(parents=True)
    (content.layers / ("a" * 64) / "fs").mkdir(parents=True)
    (content.snapshots / C1 / "upper").mkdir(parents=True)
    partial, ancient = content.blob(digest_of(b"partial")), content.blob(digest_of(b"ancient"))
    partial.write_bytes(b"partial")
    ancient.write_bytes(b"ancient")
    os.utime(ancient, (0, 0))
    again = ContentStore(tmp_path / "store", SystemClock())
    assert (before, ()) == (await again.list(), again.prepared())
    assert set() == files(content.tmp)
    assert (True, False) == (partial.exists(), ancient.exists())
    assert 2 == len(list(content.layers.iterdir()))
    await again.close()


@pytest.mark.parametrize("what", ["layer", "config"])
async def test_an_image_with_a_part_missing_is_not_shown(
    tmp_path: Path, registry: Registry, layout: Layout, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An image that lost a layer or its configuration is not there after a restart, and can be pulled again."""
    layout.image([HELLO], tag="t")
    reference = registry.push(layout, "t", f"team/missing-{what}:1")
    store = ContentStore(tmp_path / "store", SystemClock())
    image_id = await pull(store, reference)
    await store.close()
    if what == "layer":
        shutil.rmtree(next(store._content.layers.iterdir()))
    else:
        store._content.blob(image_id).write_bytes(b"spoilt")
    again = ContentStore(tmp_path / "store", SystemClock())
    assert ((), 1) == (await again.list(), len(caplog.messages))
    assert image_id == await pull(again, reference)
    await again.close()


async def test_a_broken_index_is_reported(tmp_path: Path) -> None:
    """An index that cannot be read stops the start with `DataLoss`, and frees the store."""
    await ContentStore(tmp_path / "store", SystemClock()).close()
    (tmp_path / "store" / "index.json").write_bytes(b"{")
    for _ in range(2):
        with pytest.raises(DataLoss):
            ContentStore(tmp_path / "store", SystemClock())


async def test_pinned_images_are_marked_and_may_be_removed(tmp_path: Path, registry: Registry, layout: Layout) -> None:
    """Images whose name fits a pattern are pinned, which spares them from the collector and not from a request."""
    layout.image([HELLO], tag="t")
    reference = registry.push(layout, "t", "team/pause:1")
    store = ContentStore(tmp_path / "store", SystemClock(), pinned=("*/pause:*",))
    await pull(store, reference)
    assert [True] == [image.pinned for image in await store.list()]
    await store.remove(ImageSpec(image=reference))
    assert () == await store.list()
    await store.close()


async def test_fs_info_counts_layers_and_blobs(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """ImageFsInfo names a folder on the store's file system, with bytes and inodes, which shrink with a removal."""
    empty = (await store.fs_info()).image_filesystems[0]
    layout.image([HELLO], tag="t")
    await pull(store, registry.push(layout, "t", "team/info:1"))
    full = (await store.fs_info()).image_filesystems[0]
    assert (0, 0) == (empty.used_bytes, empty.inodes_used)
    assert (full.used_bytes or 0) > 5000
    assert (full.inodes_used or 0) >= 6
    assert (str(store._content.folder), True) == (full.mountpoint, full.timestamp > 0)
    await store.remove(ImageSpec(image=(await store.list())[0].id))
    assert attrs.evolve(empty, timestamp=0) == attrs.evolve((await store.fs_info()).image_filesystems[0], timestamp=0)


async def test_a_webassembly_artifact(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """A module in a registry is pulled like an image, and is the root's one file and the default command."""
    module = b"\0asm\1\0\0\0"
    blob = layout.blob(module, "application/wasm")
    config = layout.blob(json.dumps({"architecture": "wasm", "os": "wasip1"}).encode(), "application/vnd.wasm.config.v0+json")
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.json(), "layers": [blob.json()]}
    layout.tagged(layout.blob(json.dumps(manifest).encode(), OCI_MANIFEST), "t")
    image_id = await pull(store, registry.push(layout, "t", "team/module:1"))
    root = Path((await store.prepare(C1, image_id)).path)
    detail = await store.status(ImageSpec(image=image_id))
    assert detail is not None
    assert (module, ("/module.wasm",)) == ((root / "module.wasm").read_bytes(), detail.config.entrypoint)
    await store.close()
    again = ContentStore(store._content.folder, SystemClock())
    assert detail == await again.status(ImageSpec(image=image_id))
    await again.close()


async def test_an_artifact_is_no_image(store: ContentStore, registry: Registry, layout: Layout) -> None:
    """Something that has no root file system is refused as `InvalidArgument`."""
    config = layout.blob(b"{}", "application/vnd.oci.empty.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config.json()}
    data = json.dumps({**manifest, "layers": [config.json()]}).encode()
    layout.tagged(layout.blob(data, "application/vnd.oci.image.manifest.v1+json"), "t")
    reference = registry.push(layout, "t", "team/artifact:1")
    with pytest.raises(InvalidArgument):
        await pull(store, reference)


KILLED = """
import asyncio, sys
from pathlib import Path
from crishim.images.store import ContentStore
from crishim.model.image import ImageSpec
from crishim.system import SystemClock

async def main():
    store = ContentStore(Path(sys.argv[1]), SystemClock())
    print("ready", flush=True)
    await store.pull(ImageSpec(image=sys.argv[2]), None, None)
    print("pulled", flush=True)

asyncio.run(main())
"""


def kill_after(seconds: float, command: list[str]) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert "ready\n" == child.stdout.readline()
        time.sleep(seconds)
        child.kill()
        child.wait()


@pytest.mark.parametrize("moment", range(8))
async def test_killed_in_the_middle(tmp_path: Path, registry: Registry, layout: Layout, moment: int) -> None:
    """A process that is killed while it pulls leaves no image or a whole one, and the next pull succeeds."""
    random = [tar_of(File(f"random{number}", os.urandom(4_000_000))) for number in range(3)]
    layout.image([HELLO, *random], tag="t")
    reference = registry.push(layout, "t", f"team/killed:{moment}")
    kill_after(0.04 * moment, [sys.executable, "-c", KILLED, str(tmp_path / "store"), reference])
    store = ContentStore(tmp_path / "store", SystemClock())
    image_id = await pull(store, reference)
    assert [image_id] == [image.id for image in await store.list()]
    root = await store.prepare(C1, image_id)
    assert {"etc", "etc/hello", "bin", "bin/program", "random0", "random1", "random2"} == files(Path(root.path))
    await store.release(C1)
    assert set() == files(store._content.tmp)
    await store.close()
