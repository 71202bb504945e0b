from hypothesis import given
from hypothesis import strategies as st

from crishim.streaming.flow import Limits, Outbox, Unread

LIMITS = Limits(stream_unread=10, unread=25, unsent=10, owed=5)


def test_one_stream_over_its_bound_is_full() -> None:
    """A stream that reaches its bound makes the whole full, until it is consumed below it."""
    unread = Unread(LIMITS)
    seen = []
    for verb, count in ((unread.add, 9), (unread.add, 1), (unread.consume, 1)):
        verb(1, count)
        seen.append(unread.full)
    expected = [False, True, False]
    assert expected == seen


def test_many_streams_under_their_bound_can_be_full_together() -> None:
    """The sum of all streams has a bound of its own."""
    unread = Unread(LIMITS)
    for stream_id in (1, 3, 5):
        unread.add(stream_id, 9)
    before = unread.full
    unread.forget(3)
    expected = (True, False, 18, 9, 0)
    assert expected == (before, unread.full, unread.total, unread.count(1), unread.count(3))


@given(st.lists(st.tuples(st.sampled_from(["add", "consume", "forget"]), st.integers(1, 3), st.integers(0, 20))))
def test_the_total_is_the_sum_and_never_negative(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is added, consumed and forgotten, also too much, the total is the sum of the streams."""
    unread = Unread(LIMITS)
    for verb, stream_id, count in steps:
        if verb == "forget":
            unread.forget(stream_id)
        else:
            getattr(unread, verb)(stream_id, count)
        counts = [unread.count(each) for each in (1, 2, 3)]
        assert sum(counts) == unread.total
        assert (max(counts) >= 10 or sum(counts) >= 25) == unread.full
        assert min(counts) >= 0


def test_chunks_leave_in_order_and_uncopied() -> None:
    """What is taken is what was put, the same objects, and the box is empty after."""
    outbox = Outbox(LIMITS)
    chunks = [b"head", b"body"]
    outbox.put(*chunks)
    outbox.owe(b"pong")
    before = (outbox.full, outbox.unsent)
    taken = outbox.take()
    after = (outbox.full, outbox.unsent, outbox.take())
    expected: object = ((True, 12), [*chunks, b"pong"], (False, 0, []))
    assert expected == (before, taken, after)
    assert taken[1] is chunks[1]


def test_answers_are_counted_apart() -> None:
    """Only what the peer provoked counts as owed."""
    outbox = Outbox(LIMITS)
    seen = []
    for step in (lambda: outbox.put(bytes(100)), lambda: outbox.owe(bytes(5)), outbox.take):
        step()
        seen.append(outbox.owes_too_much)
    expected = [False, True, False]
    assert expected == seen
