"""The mounts of a task's root."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.errors import CrishimError, InvalidArgument
from crishim.linux.mounts import MS_BIND, MS_NODEV, MS_RDONLY, MS_REC, is_mount_root, mounts_below
from crishim.shimv2.server.rootfs import RootMount, mount_rootfs, parsed, shortened, unmount_rootfs
from tests.backends.runc.world import needs

RELATIME = 1 << 21


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "rootfs"
    yield folder
    unmount_rootfs(folder)


def open_ones() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (0, [])),
        (("rbind", "ro"), (MS_BIND | MS_REC | MS_RDONLY, [])),
        (("ro", "rw"), (0, [])),
        (("rw", "ro"), (MS_RDONLY, [])),
        (("relatime", "nodev", "norelatime"), (MS_NODEV, [])),
        (("relatime", "defaults", "index=off", "lowerdir=/a:/b"), (RELATIME, ["index=off", "lowerdir=/a:/b"])),
        (("nomand", "diratime", "nostrictatime", "async", "atime", "suid", "dev", "exec"), (0, [])),
    ],
)
def test_options(options: tuple[str, ...], expected: tuple[int, list[str]]) -> None:
    """The options of mount(8) become flags, of which the last counts; the rest are the file system's own, in order."""
    assert expected == parsed(options)


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
