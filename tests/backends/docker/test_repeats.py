"""Entries that the engine repeats."""

from crishim.backends.docker.wire import LogEntry, Repeats


def passed_on(entries: list[LogEntry], limit: int = 100) -> list[LogEntry]:
    repeats = Repeats(limit)
    return [entry for entry in entries if not repeats.again(entry)]


ONE, TWO, THREE, FOUR = (LogEntry(time, "stdout", b"line\n") for time in (1, 2, 3, 4))


def test_a_replay_is_left_out() -> None:
    """Repeated entries are dropped, up to the first new one."""
    assert [ONE, TWO, THREE, FOUR] == passed_on([ONE, TWO, THREE, TWO, THREE, FOUR])


def test_pieces_share_their_time() -> None:
    """Equal pieces of one line are no repetition."""
    piece = LogEntry(1, "stdout", b"x" * 16384)
    assert [piece, piece, TWO] == passed_on([piece, piece, TWO])


def test_a_clock_that_was_set_back() -> None:
    """New entries with older times are passed on."""
    new = LogEntry(2, "stdout", b"other\n")
    assert [ONE, THREE, new, FOUR] == passed_on([ONE, THREE, new, FOUR])


def test_streams_have_their_own_order() -> None:
    """An older entry of the other stream is new."""
    error = LogEntry(1, "stderr", b"line\n")
    assert [TWO, error] == passed_on([TWO, error])


def test_memory_is_bounded() -> None:
    """Only the last entries are remembered."""
    assert [ONE, TWO, THREE, ONE] == passed_on([ONE, TWO, THREE, ONE], limit=2)
