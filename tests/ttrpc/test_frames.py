import itertools

from hypothesis import given
from hypothesis import strategies as st

from crishim.ttrpc.frames import HEADER, MAX_DATA, Frame, FrameDecoder, Oversized, encode

FRAMES = st.lists(
    st.builds(Frame, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=50)),
    max_size=8,
)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


@given(FRAMES, st.lists(st.integers(0, 1000), max_size=10))
def test_frames_survive_any_cut(frames: list[Frame], cuts: list[int]) -> None:
    """What was encoded is decoded, however the bytes are cut on their way."""
    data = b"".join(encode(frame.stream, frame.kind, frame.flags, frame.data) for frame in frames)
    decoder = FrameDecoder()
    assert frames == [frame for piece in in_pieces(data, cuts) for frame in decoder.feed(piece)]


def test_the_header_is_big_endian() -> None:
    """Length, stream, kind and flags stand in ten bytes, the highest byte first."""
    assert bytes([0, 0, 0, 2, 0, 0, 1, 3, 1, 4]) + b"ab" == encode(259, 1, 4, b"ab")


@given(st.integers(1, 300), st.lists(st.integers(0, 2**23), max_size=6))
def test_a_frame_over_the_limit_is_skipped(beyond: int, cuts: list[int]) -> None:
    """A frame that is too long is reported with its stream, and the next one is read normally."""
    data = HEADER.pack(MAX_DATA + beyond, 7, 2, 0) + bytes(MAX_DATA + beyond) + encode(9, 2, 0, b"next")
    decoder = FrameDecoder()
    found = [frame for piece in in_pieces(data, cuts) for frame in decoder.feed(piece)]
    assert [Oversized(7, 2, MAX_DATA + beyond), Frame(9, 2, 0, b"next")] == found
    assert not decoder._buffer


def test_a_frame_of_the_limit_is_read() -> None:
    """4 MiB of data are a frame."""
    (frame,) = FrameDecoder().feed(encode(1, 1, 0, bytes(MAX_DATA)))
    assert isinstance(frame, Frame)
    assert MAX_DATA == len(frame.data)
