"""Mounts of this machine, and the kernel's list of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.linux.mounts import (
    MS_BIND,
    MS_PRIVATE,
    MS_REC,
    MountPoint,
    is_mount_root,
    mount,
    mount_of,
    mounts_below,
    parse_mountinfo,
    read_mounts,
    unmount,
    unmount_below,
)
from tests.backends.runc.world import needs


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose mounts are gone afterwards."""
    path = tmp_path / "folder"
    path.mkdir()
    yield path
    unmount_below(tmp_path)


def test_a_line_of_mountinfo() -> None:
    """Each field has its place, with any number of optional fields (proc_pid_mountinfo(5))."""
    text = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n"
    expected = MountPoint(
        id=36,
        parent=35,
        device="98:0",
        root="/mnt1",
        path="/mnt2",
        options=("rw", "noatime"),
        optional=("master:1", "shared:7"),
        kind="ext3",
        source="/dev/root",
        super_options=("rw", "errors=continue"),
    )
    assert [expected] == parse_mountinfo(text)
    assert (True, True) == (expected.shared, expected.slave)


@pytest.mark.parametrize(
    ("field", "path"),
    [
        (rb"/a\040b\011c\012d\134040", "/a b\tc\nd\\040"),
        ("/\u00e9\u4e2d".encode(), "/\u00e9\u4e2d"),
        (b"/x\xff\x85", os.fsdecode(b"/x\xff\x85")),
        ("/line\u2028\x0b".encode(), "/line\u2028\x0b"),
        (b"/-", "/-"),
    ],
)
def test_names(field: bytes, path: str) -> None:
    """Octal escapes are bytes; names in UTF-8, in other encodings, and with unusual line ends are preserved."""
    (parsed,) = parse_mountinfo(b"1 2 0:3 / " + field + b" rw - tmpfs  rw\n")
    assert (path, "", ()) == (parsed.path, parsed.source, parsed.optional)


@pytest.mark.node
@needs()
@pytest.mark.parametrize("name", [b"a b\tc\nd", "\u00e9\u4e2d\\".encode(), b"\xff"])
def test_names_as_the_kernel_has_them(folder: Path, name: bytes) -> None:
    """A mount at a path with any bytes is found, and unmounted with all below its folder."""
    target = folder / os.fsdecode(name)
    target.mkdir()
    mount("tmpfs", target, "tmpfs")
    assert [str(target)] == [found.path for found in mounts_below(folder)]
    unmount_below(folder)
    assert (False, []) == (is_mount_root(target), mounts_below(folder))


@pytest.mark.node
@needs()
def test_binds_within_one_file_system(folder: Path) -> None:
    """A folder bound onto itself is a mount, and so is a bound file; what lies beside or below is none."""
    inner = folder / "inner"
    inner.mkdir()
    (inner / "file").touch()
    (folder / "link").symlink_to("inner")
    assert [False, False] == [is_mount_root(inner), is_mount_root(inner / "file")]
    mount(str(inner), inner, flags=MS_BIND)
    mount(str(inner / "file"), inner / "file", flags=MS_BIND)
    paths = [inner, folder / "link", inner / "file", folder, folder / "none"]
    assert [True, True, True, False, False] == [is_mount_root(path) for path in paths]


@pytest.mark.node
@needs()
def test_the_mount_of_a_path(folder: Path) -> None:
    """A path lies in the mount that is seen there, not in one that another hides."""
    inner = folder / "inner"
    inner.mkdir()
    for kind in ("hidden", "seen"):
        mount(kind, folder if kind == "seen" else inner, "tmpfs")
    inner.mkdir()
    found = mount_of(inner, read_mounts())
    assert found is not None
    assert ("seen", str(folder)) == (found.source, found.path)


@pytest.mark.node
@needs()
def test_unmounting_below_a_link(folder: Path) -> None:
    """Mounts below a folder are found by its real name, those on top of one another and hidden ones too."""
    inner = folder / "inner"
    inner.mkdir()
    mount("one", inner, "tmpfs")
    mount("two", inner, "tmpfs")
    mount(str(folder), folder, flags=MS_BIND)
    link = folder.parent / "link"
    link.symlink_to(folder.name)
    (folder.parent / "folders").mkdir()
    mount("other", folder.parent / "folders", "tmpfs")
    assert 3 == len(mounts_below(link))
    unmount_below(link)
    assert ([], True) == (mounts_below(folder), is_mount_root(folder.parent / "folders"))


@pytest.mark.node
@needs()
def test_propagation(folder: Path) -> None:
    """Whether a mount is shared or a slave is in its line."""
    mount("tmpfs", folder, "tmpfs")
    mount("", folder, flags=1 << 20)  # MS_SHARED
    other = folder / "other"
    other.mkdir()
    mount(str(folder), other, flags=MS_BIND | MS_REC)
    mount("", other, flags=1 << 19)  # MS_SLAVE
    seen = {found.path: (found.shared, found.slave) for found in mounts_below(folder)}
    assert ((True, False), (False, True)) == (seen[str(folder)], seen[str(other)])
    mount("", folder, flags=MS_PRIVATE | MS_REC)
    assert {(False, False)} == {(found.shared, found.slave) for found in mounts_below(folder)}
    assert unmount(other)
