"""The mounts of a task's root."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.errors import CrishimError, InvalidArgument
from crishim.linux.mounts import is_mount_root, mounts_below
from crishim.pods.namespaces import user_namespace
from crishim.shimv2.server.rootfs import RootMount, lowered, mappings, mount_rootfs, mount_with_ids, shortened, unmount_rootfs
from tests.backends.runc.world import needs


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "rootfs"
    yield folder
    unmount_rootfs(folder)


def open_ones() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_short_options_stay() -> None:
    """What fits a page is passed as it came."""
    with shortened(["index=off", "lowerdir=/no/such:/folder"]) as data:
        assert "index=off,lowerdir=/no/such:/folder" == data


def test_long_options_without_layers() -> None:
    """They are the kernel's to refuse."""
    with shortened(["size=" + "0" * 5000]) as data:
        assert 5005 == len(data)


def test_long_options_leave_no_descriptor(tmp_path: Path) -> None:
    """The folders that are open meanwhile are closed, also when one of them is not there."""
    layers = [tmp_path / f"{number:0200}" for number in range(40)]
    for layer in layers:
        layer.mkdir()
    before = open_ones()
    with shortened(["lowerdir=" + ":".join(map(str, layers))]) as data:
        assert len(data) < 1000
    layers[-1].rmdir()
    with pytest.raises(FileNotFoundError), shortened(["lowerdir=" + ":".join(map(str, layers))]):
        pass
    assert before == open_ones()


@pytest.mark.node
@needs()
def test_a_hundred_layers(tmp_path: Path, rootfs: Path) -> None:
    """An overlay whose options are longer than a page is mounted, the first layer uppermost."""
    layers = [tmp_path / f"{number:0120}" for number in range(100)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / "same").write_text(str(number))
        (layer / str(number)).touch()
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    options = ("index=off", f"workdir={work}", f"upperdir={upper}", "lowerdir=" + ":".join(map(str, layers)))
    mount_rootfs(rootfs, [RootMount(kind="overlay", source="overlay", options=options)])
    assert ("0", 101) == ((rootfs / "same").read_text(), len(list(rootfs.iterdir())))
    (rootfs / "new").touch()
    assert (upper / "new").exists()


@pytest.mark.node
@needs()
def test_a_bind_mount_is_read_only(tmp_path: Path, rootfs: Path) -> None:
    """A bind mount gets the flags that the kernel takes only in a second step."""
    source = tmp_path / "source"
    source.mkdir()
    mount_rootfs(rootfs, [RootMount(kind="bind", source=str(source), options=("rbind", "ro", "nodev"))])
    with pytest.raises(OSError, match="Read-only"):
        (rootfs / "new").touch()
    assert os.statvfs(rootfs).f_flag & os.ST_NODEV


@pytest.mark.node
@needs()
def test_one_fails(tmp_path: Path, rootfs: Path) -> None:
    """What was mounted before it is gone again, and unmounting once more does no harm."""
    mounts = [RootMount(kind="tmpfs", source="t"), RootMount(kind="nosuchfs", source="t")]
    with pytest.raises(CrishimError):
        mount_rootfs(rootfs, mounts)
    assert [] == mounts_below(tmp_path)
    unmount_rootfs(rootfs)
    assert [] == list(rootfs.iterdir())


@pytest.mark.node
@needs()
def test_mounts_in_one_another(rootfs: Path) -> None:
    """A target is relative to the root, also when it looks absolute; one that leads out is refused."""
    rootfs.mkdir()
    (rootfs / "a").mkdir()
    mount_rootfs(rootfs, [RootMount(kind="tmpfs", source="t", target="/a", options=("size=64k", "noexec"))])
    assert is_mount_root(rootfs / "a")
    with pytest.raises(InvalidArgument):
        mount_rootfs(rootfs, [RootMount(kind="tmpfs", source="t", target="a/../../b")])


MAPPED = ("uidmap=0:200000:65536", "gidmap=0:300000:65536")


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


@pytest.mark.node
@needs("unshare")
@pytest.mark.parametrize("layers", [2, 60])
async def test_an_overlay_with_ids_of_a_user_namespace(tmp_path: Path, rootfs: Path, layers: int) -> None:
    """Containerd 2 maps the ids of a pod's user namespace so: root's files of every layer belong to the namespace's root."""
    bundle = rootfs.parent
    folders = [tmp_path / f"{number:080}" for number in range(layers)]
    for number, folder in enumerate(folders):
        (folder / f"of-{number}").mkdir(parents=True)
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    own = (f"workdir={work}", f"upperdir={upper}", "lowerdir=" + ":".join(map(str, folders)))
    mounts = (RootMount(kind="overlay", source="overlay", options=(*own, *MAPPED)),)
    await mount_with_ids(bundle, mounts)
    assert {(200000, 300000)} == {owner(rootfs / f"of-{number}") for number in range(layers)}
    assert not (bundle / "crishim-lower").exists()
    assert [str(rootfs)] == [mount.path for mount in mounts_below(bundle)]


@pytest.mark.node
@needs("unshare")
async def test_lower_folders_that_a_killed_daemon_has_left(tmp_path: Path, rootfs: Path) -> None:
    """They are read-only, and unmounted with the root, so that the removal of the bundle leaves the layer's files."""
    (tmp_path / "layer" / "usr").mkdir(parents=True)
    bundle = tmp_path / "bundle"
    ids = mappings((RootMount(kind="overlay", source="overlay", options=MAPPED),))
    assert ids is not None
    async with user_namespace(ids) as pid:
        lowers = lowered([f"lowerdir={tmp_path / 'layer'}"], bundle / "crishim-lower", f"/proc/{pid}/ns/user")
        with contextlib.suppress(FileNotFoundError), lowers:  # its own end finds nothing any more
            with pytest.raises(OSError, match="Read-only"):
                (bundle / "crishim-lower" / "0" / "usr").rmdir()
            unmount_rootfs(bundle / "rootfs")
            assert [] == mounts_below(bundle)
            shutil.rmtree(bundle)
    assert (tmp_path / "layer" / "usr").exists()


@pytest.mark.node
@needs("unshare")
async def test_a_bind_mount_with_ids_of_a_user_namespace(tmp_path: Path, rootfs: Path) -> None:
    """Any other mount is mapped itself, and stays read-only."""
    (tmp_path / "source" / "a").mkdir(parents=True)
    mounts = (RootMount(kind="bind", source=str(tmp_path / "source"), options=("rbind", "ro", *MAPPED)),)
    await mount_with_ids(rootfs.parent, mounts)
    assert (200000, 300000) == owner(rootfs / "a")
    with pytest.raises(OSError, match="Read-only"):
        (rootfs / "new").touch()


@pytest.mark.parametrize("options", [("uidmap=0:1", "gidmap=0:0:1"), ("uidmap=a:b:c", "gidmap=0:0:1"), ("uidmap=", "gidmap=")])
def test_mappings_that_are_none(options: tuple[str, ...]) -> None:
    """They are refused by their field; with only one of the two nothing is mapped."""
    with pytest.raises(InvalidArgument) as refused:
        mappings((RootMount(kind="overlay", source="overlay", options=options),))
    assert "rootfs.options" == refused.value.field
    assert mappings((RootMount(kind="overlay", source="overlay", options=options[:1]),)) is None
