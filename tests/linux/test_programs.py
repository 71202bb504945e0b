"""What PATH leads to, for a user who may not look everywhere."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.linux.children import children
from crishim.linux.programs import find_program

NOBODY = 65534


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Inside, files are opened as by a user who is not root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder that an ordinary user may not look into, with a program in it."""
    folder = tmp_path / "closed"
    folder.mkdir()
    make_program(folder / "hidden")
    folder.chmod(0)
    yield folder
    folder.chmod(0o700)


def make_program(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


async def test_a_folder_that_may_not_be_read(closed: Path) -> None:
    """It has nothing: a program that is nowhere is missing, not refused."""
    env = {"PATH": f"{closed}:/usr/bin"}
    with ordinary_user():
        assert "" == find_program("hidden", env=env)
        with pytest.raises(FileNotFoundError, match="hidden"):
            await children.start("hidden", env=env)
        with pytest.raises(FileNotFoundError, match="hidden"):
            children.spawn(["hidden"], env=env)


async def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    """A file on PATH that is not executable is no program, as for a shell or Go's LookPath."""
    (tmp_path / "text").touch(mode=0o644)
    with pytest.raises(FileNotFoundError):
        await children.start("text", env={"PATH": str(tmp_path)})


async def test_the_program_is_called_as_it_was_named(tmp_path: Path) -> None:
    """It is looked for in the PATH that it gets, and finds its own name as it was given: busybox goes by that."""
    (tmp_path / "shell").symlink_to("/bin/sh")
    process = await children.start("shell", "-c", "echo $0", env={"PATH": str(tmp_path)}, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert b"shell\n" == out


def test_folders_after_path(tmp_path: Path) -> None:
    """Further folders are searched after PATH; a name with a slash is not searched, and a relative one begins at `cwd`."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = make_program(tmp_path / "a" / "one"), make_program(tmp_path / "b" / "one")
    env = {"PATH": str(tmp_path / "a")}
    assert first == find_program("one", [str(tmp_path / "b")], env=env)
    assert second == find_program("one", [str(tmp_path / "b")], env={"PATH": "/usr/bin"})
    assert second == find_program("b/one", env=env, cwd=str(tmp_path))
    assert "" == find_program("./one", env=env, cwd=str(tmp_path))
    assert first == find_program("one", env={"PATH": "a"}, cwd=str(tmp_path))
