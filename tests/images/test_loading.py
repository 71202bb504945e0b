"""Images from local files: root file systems, layouts and archives, as their tools write them."""

import bz2
import gzip
import lzma
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crishim.errors import Aborted, CrishimError, DataLoss, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from crishim.images.skopeo import PullSettings
from crishim.images.store import ContentStore
from crishim.linux.mounts import mount, unmount, unmount_below
from crishim.model.image import ImageConfig, ImageDetail, ImageSpec
from crishim.model.values import ContainerId, FrozenDict, ImageId
from crishim.system import SystemClock
from tests.backends.docker.world import dockerd
from tests.backends.runc.world import needs
from tests.node.registry import File, Layout, folder, tar_of

pytestmark = [pytest.mark.node, needs("skopeo", "tar")]

C1 = ContainerId("1" * 64)
CHANGES = "/sys/devices/system/cpu/smt"
"""A folder whose files are shorter than they say."""

NAME = "edge.example/app:1"
HELLO = tar_of(folder("etc"), File("etc/hello", b"hello", uid=5, mode=0o640), File("bin/program", b"x" * 5000, mode=0o755))
MORE = tar_of(File("etc/more", b"more"))
CONFIG = ImageConfig(
    entrypoint=("/bin/program",),
    cmd=("a",),
    env=("A=b",),
    working_dir="/etc",
    user="5",
    stop_signal="SIGINT",
    volumes=("/data",),
    labels=FrozenDict({"a": "b"}),
)


def skopeo(*arguments: str) -> None:
    subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", *arguments], check=True)


def copied(tree: Path, to: Path) -> Path:
    subprocess.run(["cp", "--archive", "--no-target-directory", tree, to], check=True)
    return to


def packed_again(archive: Path, to: Path, kind: str, program: str) -> None:
    """The files of an archive by GNU tar and a program that compresses."""
    files = archive.with_name("files")
    files.mkdir()
    subprocess.run(["tar", "-C", files, "-xf", archive], check=True)
    prefix = "./" if kind == "oci-archive" else ""  # with which skopeo 1.9 does not find docker's files
    names = [f"{prefix}{path.name}" for path in sorted(files.iterdir())]
    packed = [f"--use-compress-program={program}"] if program else []
    subprocess.run(["tar", "-C", files, *packed, "-cf", to, *names], check=True)


async def detail(store: ContentStore) -> ImageDetail:
    found = await store.status(ImageSpec(image=NAME))
    assert found is not None
    return found


async def root(store: ContentStore, image_id: ImageId) -> Path:
    return Path((await store.prepare(C1, image_id)).path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system with what only a faithful copy keeps."""
    top = tmp_path / "tree"
    (top / "etc").mkdir(parents=True)
    (top / "etc/hello").write_bytes(b"hello")
    os.chown(top / "etc/hello", 5, 6)
    (top / "etc/hello").chmod(0o4750)
    os.setxattr(top / "etc/hello", "user.note", b"kept")
    os.link(top / "etc/hello", top / "etc/same")
    (top / "etc/link").symlink_to("hello")
    return top


@pytest.fixture
def saved(layout: Layout) -> Layout:
    """An image of two layers in a layout, with the tag `t`."""
    layout.image([HELLO, MORE], {"Cmd": ["/bin/program"]}, tag="t")
    return layout


async def test_a_folder(store: ContentStore, tree: Path) -> None:
    """A folder becomes an image of one layer with owners, modes, links and extended attributes, and with the given defaults."""
    image_id = await store.load(tree, NAME, CONFIG)
    found = await detail(store)
    assert (image_id, (NAME,), CONFIG) == (found.image.id, found.image.repo_tags, found.config)
    place = await root(store, image_id) / "etc"
    status = (place / "hello").stat()
    assert (5, 6, 0o104750) == (status.st_uid, status.st_gid, status.st_mode)
    assert b"kept" == os.getxattr(place / "hello", "user.note")
    assert status.st_ino == (place / "same").stat().st_ino
    assert "hello" == str((place / "link").readlink())


async def test_equal_folders_are_one_image(store: ContentStore, tree: Path, tmp_path: Path) -> None:
    """A folder and its copy have one id, so loading again adds nothing, and an image of other defaults has another id."""
    first = await store.load(tree, NAME)
    assert first == await store.load(str(copied(tree, tmp_path / "copied")), NAME)
    assert [first] == [image.id for image in await store.list()]
    assert first != await store.load(tree, "edge.example/other:1", CONFIG)


@pytest.mark.parametrize("packed", [False, True])
async def test_a_tar_file(store: ContentStore, tmp_path: Path, packed: bool) -> None:
    """A tar file, also one with gzip, becomes the one layer of an image; the file stays as it is."""
    file = tmp_path / "root.tar"
    file.write_bytes(gzip.compress(HELLO) if packed else HELLO)
    before = file.read_bytes()
    place = await root(store, await store.load(file, NAME, CONFIG))
    assert ("hello", before) == ((place / "etc/hello").read_text(), file.read_bytes())
    assert CONFIG == (await detail(store)).config


async def test_a_layout_keeps_its_digest(store: ContentStore, saved: Layout) -> None:
    """An OCI layout is loaded with unchanged bytes: the image has the layout's digests, and all its layers."""
    digest = saved.image([HELLO, MORE], {"Cmd": ["/bin/program"]}).digest
    place = await root(store, await store.load(saved.place, NAME))
    found = await detail(store)
    assert ((f"edge.example/app@{digest}",), ("/bin/program",)) == (found.image.repo_digests, found.config.cmd)
    assert ("hello", "more") == ((place / "etc/hello").read_text(), (place / "etc/more").read_text())


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
async def test_an_archive(store: ContentStore, saved: Layout, tmp_path: Path, kind: str) -> None:
    """An archive of either kind, at a path with a colon, is recognised by what it holds."""
    skopeo(f"oci:{saved.place}:t", f"{kind}:{tmp_path}/a.tar:team/app:1")
    (tmp_path / "a.tar").rename(tmp_path / "a:b.tar")
    place = await root(store, await store.load(tmp_path / "a:b.tar", NAME))
    assert ("hello", "more") == ((place / "etc/hello").read_text(), (place / "etc/more").read_text())
    assert ("/bin/program",) == (await detail(store)).config.cmd


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("program", ["", "gzip", "zstd", "bzip2", "xz"])
async def test_an_archive_that_others_have_packed(
    store: ContentStore, saved: Layout, tmp_path: Path, kind: str, program: str
) -> None:
    """An archive whose names begin with `./`, as `tar .` writes them, is recognised, compressed by any program too."""
    skopeo(f"oci:{saved.place}:t", f"{kind}:{tmp_path}/a.tar:team/app:1")
    packed_again(tmp_path / "a.tar", tmp_path / "b.tar", kind, program)
    place = await root(store, await store.load(tmp_path / "b.tar", NAME))
    assert ("hello", "more") == ((place / "etc/hello").read_text(), (place / "etc/more").read_text())


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"Layers": []}', b'[{"name": "app"}]', b"[" * 100_000])
async def test_a_root_file_system_with_a_manifest(store: ContentStore, tmp_path: Path, data: bytes) -> None:
    """A file manifest.json that lists no images of docker's is a file of a root file system."""
    (tmp_path / "root.tar").write_bytes(tar_of(File("manifest.json", data)))
    place = await root(store, await store.load(tmp_path / "root.tar", NAME))
    assert data == (place / "manifest.json").read_bytes()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("part", ["cut", "damaged"])
async def test_broken_compression(store: ContentStore, tmp_path: Path, pack: Callable[[bytes], bytes], part: str) -> None:
    """A compressed file that is cut or damaged is `DataLoss`."""
    data = pack(tar_of(File("etc/random", random.Random(1).randbytes(300_000)), File("manifest.json", b"[]")))
    middle = len(data) // 2
    (tmp_path / "root.tar").write_bytes(data[:middle] + (b"" if part == "cut" else b"\xff" * 1000 + data[middle + 1000 :]))
    with pytest.raises(DataLoss):
        await store.load(tmp_path / "root.tar", NAME)


async def test_one_of_several_images(store: ContentStore, saved: Layout) -> None:
    """A layout of two images is refused with skopeo's message, and one of them is loaded by its name in skopeo's words."""
    saved.image([MORE], tag="u")
    with pytest.raises(DataLoss, match=rf"loading {saved.place}: .*more than one image"):
        await store.load(saved.place, NAME)
    place = await root(store, await store.load(f"oci:{saved.place}:u", NAME))
    assert ["more"] == [path.name for path in (place / "etc").iterdir()]


@pytest.fixture
def docker() -> Iterator[Callable[..., object]]:
    """Docker's program, with an engine of its own."""
    with dockerd() as engine:
        yield lambda *arguments: subprocess.run(["docker", "--host", f"unix://{engine.socket}", *arguments], check=True)


@needs("docker", "dockerd")
async def test_what_docker_saves(store: ContentStore, docker: Callable[..., object], tmp_path: Path) -> None:
    """The file of `docker save`, which is both an OCI layout and an archive of docker's, is the image that docker has."""
    (tmp_path / "root.tar").write_bytes(HELLO)
    docker("import", "--change", "CMD /bin/program", str(tmp_path / "root.tar"), "team/saved:1")
    docker("save", "--output", str(tmp_path / "saved.tar"), "team/saved:1")
    place = await root(store, await store.load(tmp_path / "saved.tar", NAME))
    assert b"x" * 5000 == (place / "bin/program").read_bytes()
    assert ("/bin/sh", "-c", "/bin/program") == (await detail(store)).config.cmd


async def test_refusals_leave_nothing(store: ContentStore, saved: Layout, tree: Path, tmp_path: Path) -> None:
    """What cannot be loaded is refused by what is wrong, and nothing of it stays in the store."""
    (tmp_path / "text").write_text("no archive\n" * 100)
    (tmp_path / "cut.tar").write_bytes(HELLO[: len(HELLO) // 2])
    (tmp_path / "empty.tar").write_bytes(tar_of(File("manifest.json", b'[{"Config": "none", "Layers": null}]')))
    refused: list[tuple[Path, str, ImageConfig | None, type[CrishimError]]] = [
        (tree, "UPPER", None, InvalidArgument),
        (tree, f"edge.example/app@sha256:{'1' * 64}", None, InvalidArgument),
        (saved.place, NAME, CONFIG, InvalidArgument),
        (tmp_path / "nothing", NAME, None, NotFound),
        (tmp_path / "text", NAME, None, DataLoss),
        (tmp_path / "cut.tar", NAME, None, DataLoss),
        (tmp_path / "empty.tar", NAME, None, DataLoss),
    ]
    for source, name, config, error in refused:
        with pytest.raises(error):
            await store.load(source, name, config)
    assert () == await store.list()
    assert [] == list((tmp_path / "store/tmp").iterdir())


@pytest.mark.skipif(not Path(CHANGES).is_dir(), reason=f"needs {CHANGES}: a kernel with CONFIG_HOTPLUG_SMT")
async def test_a_folder_that_changes(store: ContentStore) -> None:
    """A folder whose files change while tar reads them, as those of sysfs do for it, is `Aborted` with tar's message."""
    with pytest.raises(Aborted, match=rf"loading {CHANGES}: \./\w+: File shrank by "):
        await store.load(CHANGES, NAME)


async def test_a_full_disk(tree: Path, tmp_path: Path) -> None:
    """A folder that does not fit on the store's disk is `ResourceExhausted`."""
    (tree / "zeros").write_bytes(bytes(3_000_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("tmpfs", disk, "tmpfs", 0, "size=1m")
    try:
        store = ContentStore(disk, SystemClock())
        try:
            with pytest.raises(ResourceExhausted, match="Wrote only"):
                await store.load(tree, NAME)
        finally:
            await store.close()
    finally:
        unmount_below(disk)
        unmount(disk)


async def test_what_is_mounted_below_a_folder(store: ContentStore, tree: Path) -> None:
    """Of a mount below a folder the image has the empty mount point alone."""
    (tree / "proc").mkdir()
    mount("tmpfs", tree / "proc", "tmpfs")
    try:
        (tree / "proc/file").touch()
        place = await root(store, await store.load(tree, NAME))
    finally:
        unmount(tree / "proc")
    assert [] == list((place / "proc").iterdir())


async def test_after_a_restart(tree: Path, tmp_path: Path) -> None:
    """A loaded image is whole for the next process: its defaults and its files."""
    first = ContentStore(tmp_path / "other", SystemClock())
    image_id = await first.load(tree, NAME, CONFIG)
    await first.close()
    store = ContentStore(tmp_path / "other", SystemClock())
    try:
        found = await detail(store)
        assert (image_id, CONFIG) == (found.image.id, found.config)
        assert "hello" == (await root(store, image_id) / "etc/hello").read_text()
    finally:
        await store.release(C1)
        await store.close()


async def test_without_skopeo(tree: Path, saved: Layout, tmp_path: Path) -> None:
    """A root file system needs no skopeo, and an archive says that it is missing."""
    store = ContentStore(tmp_path / "other", SystemClock(), PullSettings(program="no-skopeo"))
    try:
        with pytest.raises(Unavailable, match="no-skopeo is not on PATH"):
            await store.load(saved.place, NAME)
        assert await store.load(tree, NAME) == (await detail(store)).image.id
    finally:
        await store.close()
