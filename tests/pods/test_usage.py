"""Counting beside."""

import asyncio
import threading
from pathlib import Path

from crishim.pods.usage import Counts, folder_size
from crishim.testing.doubles import FakeClock


async def test_a_count_serves_for_a_while() -> None:
    """A count is cached until it is ten seconds old; then the old one is returned once more while a new one is made."""
    clock = FakeClock()
    counts: Counts[int] = Counts(clock)
    values = iter(range(10))
    assert [0, 0] == [await counts.get("a", lambda: next(values)) for _ in range(2)]
    await clock.advance(10)
    assert 0 == await counts.get("a", lambda: next(values))
    while (value := await counts.get("a", lambda: next(values))) == 0:  # noqa: ASYNC110 - a thread counts
        await asyncio.sleep(0.001)
    assert 1 == value
    counts.forget("a")
    assert 2 == await counts.get("a", lambda: next(values))


async def test_a_dear_count_is_rarer() -> None:
    """A count that took two seconds is not repeated for a hundred and ten."""
    clock = FakeClock()
    counts: Counts[str] = Counts(clock)
    counts_made: list[str] = []

    def slow() -> str:
        counts_made.append("x")
        clock._now += 2_000_000_000
        return counts_made[-1]

    assert "x" == await counts.get("a", slow)
    await clock.advance(109)
    assert "x" == await counts.get("a", slow)
    assert ["x"] == counts_made


async def test_a_long_first_count_is_not_waited_for() -> None:
    """While the first count lasts there is no value, and no second count is begun; a count that failed is tried again."""
    counts: Counts[int] = Counts(FakeClock())
    go_on = threading.Event()
    counts_made: list[int] = []

    def slow() -> int:
        counts_made.append(1)
        go_on.wait()
        return 5

    assert [None, None] == [await counts.get("a", slow) for _ in range(2)]
    go_on.set()
    while (value := await counts.get("a", slow)) is None:  # noqa: ASYNC110 - a thread counts
        await asyncio.sleep(0.001)
    assert (5, [1]) == (value, counts_made)

    def fails() -> int:
        raise OSError("gone")

    assert None is await counts.get("b", fails)
    assert 7 == await counts.get("b", lambda: 7)


async def test_what_is_forgotten_while_it_is_counted() -> None:
    """A count that was under way for a forgotten id leaves nothing behind, and does not stand in a new one's way."""
    counts: Counts[int] = Counts(FakeClock())
    go_on = threading.Event()
    first = asyncio.create_task(counts.get("a", lambda: int(go_on.wait())))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    counts.forget("a")
    assert None is await first
    assert 7 == await counts.get("a", lambda: 7)
    go_on.set()


def test_a_folder_s_size(tmp_path: Path) -> None:
    """Bytes are those on the disk; a file with two names counts once, a link is not followed, a missing folder is small."""
    before, inodes = folder_size(tmp_path)
    assert 1 == inodes
    (tmp_path / "in").mkdir()
    data = tmp_path / "in" / "data"
    data.write_bytes(b"x" * 100_000)
    (tmp_path / "again").hardlink_to(data)
    (tmp_path / "link").symlink_to("/usr")
    used, inodes = folder_size(tmp_path)
    entries = (tmp_path / "in", data, tmp_path / "link")
    assert before + sum(path.lstat().st_blocks * 512 for path in entries) == used
    assert 1 + len(entries) == inodes
    assert (0, 1) == folder_size(tmp_path / "none")
