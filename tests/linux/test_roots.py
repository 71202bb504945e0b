"""Paths below a root file system."""

import os
from pathlib import Path

import pytest

from crishim.linux.roots import program_in_root, read_in_root


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
    """A named pipe without a writer, a folder and a circle of links are treated as missing."""
    os.mkfifo(root / "etc" / "pipe")
    (root / "etc" / "circle").symlink_to("circle")
    assert [b"", b"", b""] == [read_in_root(root, f"/etc/{name}") for name in ("pipe", "", "circle")]


@pytest.mark.parametrize(
    "target", ["../../root-secret", "../../../../../../../../../../root-secret", "/proc/self/root/root-secret"]
)
def test_nothing_outside_is_read(root: Path, target: str) -> None:
    """A link that would lead out of the root ends at it, as for a process whose root it is."""
    (root / "etc" / "passwd").symlink_to(target)
    assert b"" == read_in_root(root, "/etc/passwd")
    (root / "root-secret").write_text("inside")
    assert (b"" if "proc" in target else b"inside") == read_in_root(root, "/etc/passwd")


def test_links_within_links(root: Path) -> None:
    """NixOS: /etc is a link to an absolute path, in which passwd is another one."""
    (root / "store" / "etc").mkdir(parents=True)
    (root / "store" / "passwd").write_text("x")
    (root / "store" / "etc" / "passwd").symlink_to("/store/passwd")
    (root / "linked").symlink_to("/store/etc")
    assert b"x" == read_in_root(root, "/linked/passwd")


def test_a_program_is_found_in_the_root(root: Path) -> None:
    """By PATH and by its path, also through absolute links; what is missing or not executable is said."""
    (root / "bin").mkdir()
    (root / "usr").mkdir()
    (root / "usr" / "tool").touch(0o755)
    (root / "bin" / "tool").symlink_to("/usr/tool")
    (root / "bin" / "text").touch(0o644)
    assert [root / "usr" / "tool"] * 2 == [program_in_root(root, name, "/none:/bin") for name in ("tool", "/bin/tool")]
    assert [root / "usr" / "tool"] * 2 == [program_in_root(root, name, "", cwd="/usr") for name in ("./tool", "tool")]
    with pytest.raises(FileNotFoundError):
        program_in_root(root, "tool", "/none")
    with pytest.raises(PermissionError):
        program_in_root(root, "text", "/bin")
