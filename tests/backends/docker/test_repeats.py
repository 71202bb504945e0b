"""What the engine tells twice."""

from crishim.backends.docker.wire import LogEntry, Repeats


def told(entries: list[LogEntry], kept: int = 100) -> list[LogEntry]:
    repeats = Repeats(kept)
    return [entry for entry in entries if not repeats.again(entry)]


ONE, TWO, THREE, FOUR = (LogEntry(time, "stdout", b"line\n") for time in (1, 2, 3, 4))


def test_a_replay_is_left_out() -> None:
    """LogEntries that go back to what was just told are left out, up to the first new one."""
    assert [ONE, TWO, THREE, FOUR] == told([ONE, TWO, THREE, TWO, THREE, FOUR])


def test_pieces_share_their_time() -> None:
    """Equal pieces of one line are no repetition."""
    piece = LogEntry(1, "stdout", b"x" * 16384)
    assert [piece, piece, TWO] == told([piece, piece, TWO])


def test_a_clock_that_was_set_back() -> None:
    """New entries with older times are told."""
    new = LogEntry(2, "stdout", b"other\n")
    assert [ONE, THREE, new, FOUR] == told([ONE, THREE, new, FOUR])


def test_streams_have_their_own_order() -> None:
    """An older entry of the other stream is new."""
    error = LogEntry(1, "stderr", b"line\n")
    assert [TWO, error] == told([TWO, error])


def test_memory_is_bounded() -> None:
    """Only the last entries are remembered."""
    assert [ONE, TWO, THREE, ONE] == told([ONE, TWO, THREE, ONE], kept=2)
