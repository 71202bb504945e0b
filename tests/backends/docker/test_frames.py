"""Frames and entries: what the engine's streams hold, however they are cut."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.backends.docker.wire import Frames, LogEntries, LogEntry
from crishim.errors import DataLoss, Unknown

STAMP = b"2026-01-02T03:04:05.000000006Z "
TIME = 1767323045_000000006
LATER = b"2026-01-02T03:04:06.000000007Z "


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(payload)) + payload


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50))), st.integers(1, 20))
def test_frames_are_cut_anywhere(pieces: list[tuple[int, bytes]], step: int) -> None:
    """Wherever the bytes are cut, the pieces come whole and in order."""
    data = b"".join(frame(kind, payload) for kind, payload in pieces)
    frames = Frames(tty=False)
    seen = [piece for start in range(0, len(data), step) for piece in frames.feed(data[start : start + step])]
    assert [("stdout" if kind == 1 else "stderr", payload) for kind, payload in pieces] == seen


def test_a_terminal_has_no_frames() -> None:
    """With a terminal, bytes are output unchanged."""
    assert [("stdout", b"\x01\x00\x00\x00")] == list(Frames(tty=True).feed(b"\x01\x00\x00\x00"))


@pytest.mark.parametrize("kind", [3, 9])
def test_errors_within_a_stream(kind: int) -> None:
    """A frame of the engine's own error ends the stream with its message."""
    with pytest.raises(Unknown, match="out of luck"):
        list(Frames(tty=False).feed(frame(kind, b"out of luck")))


def test_entries_have_times() -> None:
    """Each frame of a log is one entry, with its time, its stream and its newline."""
    entries = LogEntries(tty=False)
    data = frame(1, STAMP + b"one\n") + frame(2, LATER + b"two\n")
    assert [LogEntry(TIME, "stdout", b"one\n"), LogEntry(TIME + 1_000_000_001, "stderr", b"two\n")] == list(entries.feed(data))


def test_last_piece_gets_its_newline() -> None:
    """A long line's last piece has the time of the first one and is shorter: there the line ends, newline or not."""
    pieces = [b"x" * 16384, b"x" * 16384, b"rest"]
    seen = list(LogEntries(tty=False).feed(b"".join(frame(1, STAMP + piece) for piece in pieces)))
    assert [b"x" * 16384, b"x" * 16384, b"rest\n"] == [entry.content for entry in seen]


def test_unfinished_output_has_no_newline() -> None:
    """A last piece without a newline is reported as it is."""
    assert [b"end"] == [entry.content for entry in LogEntries(tty=False).feed(frame(1, STAMP + b"end"))]


LONG = b"y" * 16384
TERMINAL = [
    ([STAMP + b"one\r\n", LATER + b"two\r\n"], [b"one\r\n", b"two\r\n"]),
    ([STAMP + LONG, STAMP + b"rest\r", LATER + b"next\r\n"], [LONG, b"rest\r\n", b"next\r\n"]),
    ([STAMP + LONG, STAMP + LONG, STAMP + b"\r\n", LATER + b"a\n"], [LONG, LONG, b"\r\n", b"a\n"]),
    ([STAMP + b"no newline"], [b"no newline"]),
]


@pytest.mark.parametrize(("raw", "expected"), TERMINAL)
@pytest.mark.parametrize("step", [1, 7, 1000, 100000])
def test_a_terminals_log(raw: list[bytes], expected: list[bytes], step: int) -> None:
    """A terminal's log has no frames: entries are separated by their times and newlines, wherever the bytes are split."""
    data, entries = b"".join(raw), LogEntries(tty=True)
    seen = [entry for start in range(0, len(data), step) for entry in entries.feed(data[start : start + step])]
    seen += entries.finish()
    assert expected == [entry.content for entry in seen]


@pytest.mark.parametrize("tty", [True, False])
def test_no_log(tty: bool) -> None:
    """What has no time is no log."""
    data = b"this is no entry of any log at all, but a line\n"
    with pytest.raises(DataLoss):
        list(LogEntries(tty=tty).feed(data if tty else frame(1, data)))
