from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.errors import DataLoss
from crishim.logs.follower import OVERLAP, TAIL, LogFollower, ResumePoint, resume_point
from crishim.logs.lines import Stream, parse
from crishim.logs.pieces import encode

SECOND = 1_000_000_000
START = 1_760_011_200 * SECOND

Entry = tuple[int, Stream, bytes]


def line(time: int, content: bytes, stream: Stream = "stdout") -> bytes:
    return encode(START + time, stream, [(content, False)])


def test_an_empty_log_asks_for_everything() -> None:
    """Without a line there is no time to continue from."""
    assert ResumePoint() == resume_point(b"")
    assert ResumePoint(torn=7) == resume_point(b"2025-10")


def test_the_last_time_determines_where_to_continue() -> None:
    """All entries within the overlap of the last line's time are requested again, and recognised."""
    old, early, late = line(0, b"a"), line(2 * SECOND, b"b\r"), line(2 * SECOND + 5, b"c", "stderr")
    point = resume_point(old + early + late + b"2025")
    assert ResumePoint(START + SECOND + 5, (early, late), 4) == point


def test_nothing_from_before_the_log_is_requested() -> None:
    """What is older than a rotated log's first line stands in the file before it."""
    assert START + 7 == resume_point(line(7, b"a") + line(9, b"b")).since


def test_a_cut_tail_begins_behind_its_first_whole_line() -> None:
    """In a tail that does not reach the log's beginning the first line may be torn, and the next one's time be incomplete."""
    tail = b"torn\n" + line(0, b"a") + line(3, b"b") + line(3, b"c")
    assert ResumePoint(START + 1, (line(3, b"b"), line(3, b"c"))) == resume_point(tail, cut=True)
    assert ResumePoint(START, (line(0, b"a"),)) == resume_point(b"torn\n" + line(0, b"a"), cut=True)


def test_what_is_no_log_is_data_loss(tmp_path: Path) -> None:
    """A file of anything else raises DataLoss naming it, and stays."""
    path = tmp_path / "0.log"
    path.write_bytes(b"{}\n")
    with pytest.raises(DataLoss, match=str(path)):
        LogFollower(path)
    assert path.read_bytes() == b"{}\n"


def follow(path: Path, entries_of: list[Entry]) -> None:
    """Write the entries that an engine with the log `entries_of` returns."""
    log = LogFollower(path)
    for time, stream, entry in entries_of:
        if time >= log.since:
            log.write(time, stream, entry)
    log.close()


entries = st.lists(
    st.tuples(
        st.integers(0, OVERLAP // 2).map(lambda time: START + time * 5),
        st.sampled_from(("stdout", "stderr")),
        st.sampled_from((b"a\n", b"b\n", b"\n", b"c", b"x" * 20_000 + b"\n")),
    ),
    max_size=30,
)


@given(stored=entries, stops=st.lists(st.integers(0, 30), max_size=3), torn=st.integers(0, 60))
def test_restarts_lose_and_repeat_nothing(
    tmp_path_factory: pytest.TempPathFactory, stored: list[Entry], stops: list[int], torn: int
) -> None:
    """However often the follower stops, and whatever it had half written, the log is that of one that never stopped."""
    stored.sort(key=lambda entry: entry[0])
    folder = tmp_path_factory.mktemp("logs")
    follow(folder / "whole.log", stored)
    path = folder / "0.log"
    for stop in sorted(stops):
        follow(path, stored[:stop])
        with path.open("ab") as file:
            file.write(line(9, b"never ended" * 9)[:torn])
    follow(path, stored)
    assert (folder / "whole.log").read_bytes() == path.read_bytes()


def test_streams_out_of_order_are_both_written(tmp_path: Path) -> None:
    """A line of the other stream that comes only after the restart is not lost, though it is older than the last one."""
    path = tmp_path / "0.log"
    follow(path, [(START, "stdout", b"a\n"), (START + 9, "stdout", b"c\n")])
    follow(path, [(START, "stdout", b"a\n"), (START + 9, "stdout", b"c\n"), (START + 5, "stderr", b"b\n")])
    assert [b"a", b"c", b"b"] == [parse(raw).content for raw in path.read_bytes().splitlines()]


def test_a_log_that_was_just_rotated_goes_on(tmp_path: Path) -> None:
    """If the new file is empty or missing, the newest rotated one determines where to continue."""
    stored: list[Entry] = [(START + time, "stdout", b"%d\n" % time) for time in range(6)]
    path = tmp_path / "0.log"
    log = LogFollower(path)
    for entry in stored[:2]:
        log.write(*entry)
    path.rename(tmp_path / "0.log.20251009-120000")
    log.reopen()
    log.write(*stored[2])
    path.rename(tmp_path / "0.log.20251009-120010")
    log.reopen()
    log.close()
    follow(path, stored)
    assert [b"3", b"4", b"5"] == [parse(raw).content for raw in path.read_bytes().splitlines()]


def test_a_big_log_is_not_read_whole(tmp_path: Path) -> None:
    """Only the end of a log is read, and nothing is repeated even if all entries have the same time."""
    stored: list[Entry] = [(START + time, "stdout", b"%0999d\n" % time) for time in range(2 * TAIL // 1000)]
    path = tmp_path / "0.log"
    follow(path, stored[:-3])
    follow(path, stored)
    assert list(range(len(stored))) == [int(parse(raw).content) for raw in path.read_bytes().splitlines()]


def test_missing_folders_are_created(tmp_path: Path) -> None:
    """A follower makes the log's folders, as the writer does."""
    follow(tmp_path / "pods" / "main" / "0.log", [(START, "stderr", b"a\n")])
    assert (tmp_path / "pods" / "main" / "0.log").read_bytes() == line(0, b"a", "stderr")


def test_many_entries_at_once(tmp_path: Path) -> None:
    """Entries that come together are written as if one by one; an empty one is none."""
    one, all_ = LogFollower(tmp_path / "one"), LogFollower(tmp_path / "all")
    entries: list[tuple[int, Stream, bytes]] = [
        (1, "stdout", b"a\n"),
        (2, "stderr", b"part"),
        (3, "stdout", b""),
        (4, "stdout", b"x" * 40000 + b"\n"),
        (5, "stdout", b"\n"),
    ]
    for entry in entries:
        one.write(*entry)
    all_.write_all(entries)
    one.close()
    all_.close()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "all").read_bytes()
    assert 6 == len((tmp_path / "all").read_bytes().splitlines())
