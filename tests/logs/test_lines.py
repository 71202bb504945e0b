import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.errors import DataLoss
from crishim.logs.lines import Line, Stream, parse, parse_time
from crishim.logs.pieces import encode

NOON = 1_760_011_200_000_000_000


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"2025-10-09T12:00:00.5Z stdout F a b", Line(NOON + 500_000_000, "stdout", False, b"a b")),
        (b"2025-10-09T14:00:00.000000007+02:00 stderr P:x \n", Line(NOON + 7, "stderr", True, b"")),
        (b"2025-10-09T06:30:00-05:30 stdout F:tag \xff\r\n", Line(NOON, "stdout", False, b"\xff\r")),
    ],
)
def test_lines_of_others_are_read(raw: bytes, line: Line) -> None:
    """Fractions of any length, zones and further tags are read."""
    assert line == parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"2025-10-09T12:00:00Z stdout F",
        b"2025-10-09T12:00:00Z stdin F x",
        b"2025-10-09T12:00:00Z stdout X x",
        b"2025-10-09T12:00:00 stdout F x",
        b"2025-13-09T12:00:00Z stdout F x",
        b"noon stdout F x",
        b"\xff stdout F x",
        b'{"log":"text\\n","stream":"stdout","time":"2025-10-09T12:00:00Z"}',
    ],
)
def test_what_is_no_line_is_data_loss(raw: bytes) -> None:
    """Anything that is not a line of a CRI log raises DataLoss."""
    with pytest.raises(DataLoss):
        parse(raw)


@given(
    time=st.integers(0, 4_000_000_000_000_000_000),
    stream=st.sampled_from(("stdout", "stderr")),
    content=st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")),
    partial=st.booleans(),
)
def test_what_was_encoded_is_parsed(time: int, stream: Stream, content: bytes, *, partial: bool) -> None:
    """Parsing is the inverse of encoding, to the nanosecond."""
    assert Line(time, stream, partial, content) == parse(encode(time, stream, [(content, partial)]))


def test_times_are_read_to_the_nanosecond() -> None:
    """A time keeps all its nine digits."""
    assert NOON + 123_456_789 == parse_time("2025-10-09T12:00:00.123456789Z")
