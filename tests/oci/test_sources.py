import os
from pathlib import Path

import pytest

from crishim.errors import PermissionDenied
from crishim.oci.sources import read_in_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system, and a file beside it whose path begins like the root's."""
    (tmp_path / "root-secret").write_text("secret")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "group").write_text("x" * (2 << 20))
    return tmp_path / "root"


def test_a_file_of_a_root(root: Path) -> None:
    """A file is read, also by links that are absolute or not, and a mebibyte of it at most; one that is not there is empty."""
    (root / "etc" / "absolute").symlink_to("/etc/group")
    (root / "etc" / "relative").symlink_to("../etc/group")
    sizes = [len(read_in_root(root, f"/etc/{name}")) for name in ("group", "absolute", "relative", "none")]
    assert [1 << 20, 1 << 20, 1 << 20, 0] == sizes


def test_what_is_no_file(root: Path) -> None:
    """A named pipe, which nobody will ever write, a folder and a circle of links are as good as not there."""
    os.mkfifo(root / "etc" / "pipe")
    (root / "etc" / "circle").symlink_to("circle")
    assert [b"", b"", b""] == [read_in_root(root, f"/etc/{name}") for name in ("pipe", "", "circle")]


@pytest.mark.parametrize("target", ["../../root-secret", "../../../../../../../../../../etc/hostname"])
def test_nothing_outside_is_read(root: Path, target: str) -> None:
    """A link that leads out of the root is refused, also to what only begins with the same name."""
    (root / "etc" / "passwd").symlink_to(target)
    with pytest.raises(PermissionDenied):
        read_in_root(root, "/etc/passwd")
