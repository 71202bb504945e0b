"""The chunked coding, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.backends.docker.wire import Chunks
from crishim.errors import Unavailable


@given(st.lists(st.binary(min_size=1, max_size=40)), st.integers(1, 30))
def test_cut_anywhere(pieces: list[bytes], step: int) -> None:
    """Wherever the bytes are cut, the content comes whole, and the end is seen with the last byte and not before."""
    data = b"".join(b"%x;name=value\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\n"
    chunks, seen = Chunks(), b""
    for start in range(0, len(data), step):
        assert not chunks.ended
        seen += chunks.feed(data[start : start + step])
    assert (b"".join(pieces), True) == (seen, chunks.ended)


def test_no_chunks() -> None:
    """What is not chunked is no reply of an engine's."""
    with pytest.raises(Unavailable):
        Chunks().feed(b"<html>\r\n")
