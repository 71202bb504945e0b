import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.logs.pieces import MAX_CONTENT, Splitter, encode

NOON = 1_760_011_200_000_000_000


def test_a_line_has_the_form_that_the_field_reads() -> None:
    """A line is time with nine digits and Z, stream, tag, content, separated by single spaces."""
    assert encode(NOON + 1_020, "stderr", [(b"", True), (b"hello  world\r", False)]) == (
        b"2025-10-09T12:00:00.000001020Z stderr P \n2025-10-09T12:00:00.000001020Z stderr F hello  world\r\n"
    )
    assert encode(NOON, "stdout", []) == b""


def test_each_line_of_a_piece_has_its_time() -> None:
    """Whole lines that were cut off together become lines of the file, one each."""
    assert encode(NOON, "stdout", [(b"a\n\nb", False)]) == (
        b"2025-10-09T12:00:00.000000000Z stdout F a\n"
        b"2025-10-09T12:00:00.000000000Z stdout F \n"
        b"2025-10-09T12:00:00.000000000Z stdout F b\n"
    )


@pytest.mark.parametrize("line", [b"\n", b"y\n", b"x" * 79 + b"\n"])
def test_short_lines_are_cut_off_together(line: bytes) -> None:
    """64 KiB of output are at most six pieces, however short its lines are: the event loop has other things to do."""
    assert len(Splitter().feed((line * 70_000)[: 64 * 1024])) <= 6


def split(*reads: bytes) -> list[tuple[bytes, bool]]:
    """The contents of lines, those that were cut off together one by one."""
    splitter = Splitter()
    pieces = [piece for data in reads for piece in splitter.feed(data)] + splitter.finish()
    return [(line, partial) for content, partial in pieces for line in content.split(b"\n")]


def test_lines_are_cut_at_newlines_only() -> None:
    """Only newlines end a line; empty lines are lines, and what is left at the end is a part."""
    assert [(b"a\r", False), (b"", False), (b"b\0c", False), (b"rest", True)] == split(b"a\r\n\nb", b"\0c\nre", b"st")
    assert [] == split(b"", b"")
    assert [(b"", False)] == split(b"\n")


@pytest.mark.parametrize("step", [1, 7, MAX_CONTENT, 1 << 20])
@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (MAX_CONTENT - 1, [(MAX_CONTENT - 1, False)]),
        (MAX_CONTENT, [(MAX_CONTENT, False)]),
        (MAX_CONTENT + 1, [(MAX_CONTENT, True), (1, False)]),
        (3 * MAX_CONTENT, [(MAX_CONTENT, True), (MAX_CONTENT, True), (MAX_CONTENT, False)]),
    ],
)
def test_long_lines_become_parts_of_16_kib(length: int, expected: list[tuple[int, bool]], step: int) -> None:
    """A line is cut after each 16 KiB, and its last piece is whole and never empty, however the output was read."""
    output = b"x" * length + b"\n"
    pieces = split(*(output[start : start + step] for start in range(0, len(output), step)))
    assert expected == [(len(content), partial) for content, partial in pieces]


@given(st.lists(st.binary(max_size=30) | st.integers(0, 40_000).map(bytes), max_size=12))
def test_no_byte_is_lost_or_added(reads: list[bytes]) -> None:
    """Joined as a reader joins them, the pieces are the output again."""
    pieces = split(*reads)
    assert b"".join(reads) == b"".join(content if partial else content + b"\n" for content, partial in pieces)
    assert all(len(content) <= MAX_CONTENT and b"\n" not in content for content, _ in pieces)


def test_an_endless_line_takes_little_memory() -> None:
    """A splitter keeps 16 KiB at most of a line that never ends."""
    splitter = Splitter()
    for _ in range(1000):
        splitter.feed(bytes(64 * 1024))
        assert len(splitter.rest) <= MAX_CONTENT
