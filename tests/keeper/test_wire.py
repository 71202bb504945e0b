"""Frames between the keeper and its clients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.keeper.wire import LIMIT, frame, message, take


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40)), max_size=6), st.integers(1, 9))
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, bytes]], step: int) -> None:
    """However a stream of frames is cut, the same frames come out of it."""
    stream = b"".join(frame(kind, payload) for kind, payload in frames)
    buffer, seen = bytearray(), []
    for start in range(0, len(stream), step):
        buffer += stream[start : start + step]
        while (one := take(buffer)) is not None:
            seen.append(one)
    assert (frames, bytearray()) == (seen, buffer)


def test_a_message_is_json() -> None:
    """A message has the kind 0, and bytes that are no UTF-8 go through."""
    assert (0, b'{"env": "\\udce9"}') == take(bytearray(message({"env": "\udce9"})))


def test_a_frame_that_is_too_long() -> None:
    """It is refused by its length, before it is there."""
    with pytest.raises(ValueError, match="too long"):
        take(bytearray((LIMIT + 1).to_bytes(4, "big")))
