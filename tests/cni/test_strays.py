# ruff: noqa: ASYNC240 - nothing else runs on these loops, so a blocking look at a small folder holds up nobody
"""Plugins that a killed server left behind."""

import asyncio
from pathlib import Path

import pytest

from crishim.cni.strays import Strays
from crishim.proc import boot_id, read


async def session(script: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec("sh", "-c", script, start_new_session=True, stdout=asyncio.subprocess.PIPE)


async def test_who_is_left_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """A note that nobody took away is a plugin of a server that is dead; its whole family goes, and the note."""
    process = await session("sleep 600 & echo $!; wait")
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    running = Strays(tmp_path / "running").noted(process.pid)
    running.__enter__()
    Strays(tmp_path / "running").end()
    assert -9 == await process.wait()
    left = read(child)
    assert left is None or left.ended
    assert [] == list((tmp_path / "running").iterdir())


@pytest.mark.parametrize("note", ["", "1 other-boot", "x y", "1"])
async def test_nobody_else_is_ended(tmp_path: Path, note: str) -> None:
    """A process with the pid of a note, but of another time or another boot, is left alone, as is what is no note."""
    process = await session("exec sleep 600")
    (tmp_path / str(process.pid)).write_text(note)
    (tmp_path / "readme").write_text(f"1 {boot_id()}")
    Strays(tmp_path).end()
    assert process.returncode is None
    assert [] == list(tmp_path.iterdir())
    process.kill()
    await process.wait()


async def test_notes_are_taken_away(tmp_path: Path) -> None:
    """Who has ended is noted no longer; where nothing can be written, plugins run all the same."""
    process = await session("exec sleep 600")
    (tmp_path / "file").touch()
    with Strays(tmp_path / "running").noted(process.pid), Strays(tmp_path / "file" / "running").noted(process.pid):
        assert [str(process.pid)] == [path.name for path in (tmp_path / "running").iterdir()]
        process.kill()
        await process.wait()
    assert [] == list((tmp_path / "running").iterdir())
