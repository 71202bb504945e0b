import contextlib
import itertools
import struct
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.streaming.events import ProtocolError
from crishim.streaming.flow import Limits
from crishim.streaming.spdy_frames import (
    MAX_STREAM_ID,
    Data,
    Frame,
    FrameReader,
    FrameWriter,
    GoAway,
    MoreHeaders,
    Ping,
    RstStream,
    Settings,
    SynReply,
    SynStream,
    WindowUpdate,
    encode_data_head,
)

Captured = Callable[[str, str], tuple[bytes, bytes]]

stream_ids = st.integers(1, MAX_STREAM_ID)
numbers = st.integers(1, 2**32 - 1)
texts = st.text("abcdef-é ", min_size=1, max_size=12)
header_lists = st.dictionaries(texts, texts, max_size=4).map(lambda headers: tuple(headers.items()))
any_frame: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Data, stream_ids, st.binary(max_size=64), st.booleans()),
    st.builds(
        SynStream,
        stream_ids,
        header_lists,
        st.booleans(),
        st.booleans(),
        st.integers(0, MAX_STREAM_ID),
        st.integers(0, 7),
        st.integers(0, 255),
    ),
    st.builds(SynReply, stream_ids, header_lists, st.booleans()),
    st.builds(MoreHeaders, stream_ids, header_lists, st.booleans()),
    st.builds(RstStream, stream_ids, numbers),
    st.builds(Ping, numbers),
    st.builds(GoAway, st.integers(0, MAX_STREAM_ID), st.integers(0, 2**32 - 1)),
    st.builds(WindowUpdate, st.integers(0, MAX_STREAM_ID), st.integers(0, MAX_STREAM_ID)),
    st.builds(
        Settings,
        st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**24 - 1), st.integers(0, 2**32 - 1)), max_size=4).map(tuple),
    ),
)


def control(kind: int, payload: bytes, *, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload


def read(chunks: Iterable[bytes], reader: FrameReader | None = None) -> list[Frame]:
    """All frames of these chunks, pieces of one data frame put together again."""
    reader = reader or FrameReader()
    frames: list[Frame] = []
    for chunk in chunks:
        reader.feed(chunk)
        while (frame := reader.next_frame()) is not None:
            last = frames[-1] if frames else None
            if isinstance(frame, Data) and isinstance(last, Data) and last.data and not last.fin and frame.data:
                frames[-1] = Data(frame.stream_id, last.data + frame.data, frame.fin)
            else:
                frames.append(frame)
    return frames


def split(whole: bytes, cuts: Iterable[int]) -> list[bytes]:
    borders = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(borders)]


@given(any_frame)
def test_decoding_undoes_encoding(frame: Frame) -> None:
    """A frame comes out as it went in."""
    assert [frame] == read([FrameWriter().encode(frame)])


@given(st.lists(any_frame.filter(lambda frame: not isinstance(frame, Data)), max_size=6), st.lists(st.integers(0)))
def test_any_split_gives_the_same_frames(frames: list[Frame], cuts: list[int]) -> None:
    """Frames come out in order, wherever the bytes are cut."""
    writer = FrameWriter()
    whole = b"".join(map(writer.encode, frames))
    assert frames == read(split(whole, cuts))


@pytest.mark.parametrize("name", ["exec", "exec-stdin", "exec-tty-resize", "attach", "portforward"])
@pytest.mark.parametrize("side", ["client", "server"])
@given(cuts=st.lists(st.integers(0)))
def test_captured_bytes_are_read_in_any_split(captured: Captured, name: str, side: str, cuts: list[int]) -> None:
    """Either side of a real conversation gives the same frames whole, byte by byte, and cut anywhere."""
    _, whole = captured(f"{name}-spdy", side)
    frames = read([whole])
    assert frames
    assert frames == read(split(whole, cuts))
    assert frames == read(struct.unpack(f"{len(whole)}c", whole))


def test_a_captured_exec_says_what_happened(captured: Captured) -> None:
    """The side of containerd of an exec that prints to both outputs and exits with 7."""
    expected = [
        *(SynReply(stream_id) for stream_id in (1, 3, 5)),
        Data(3, b"out\n"),
        Data(3, b"", fin=True),
        Data(5, b"err\n"),
        Data(5, b"", fin=True),
    ]
    frames = read([captured("exec-spdy", "server")[1]])
    status = frames[len(expected)]
    assert expected == frames[: len(expected)]
    assert isinstance(status, Data)
    assert status.data.endswith(b'"details":{"causes":[{"reason":"ExitCode","message":"7"}]}}')
    assert [RstStream(1, 5), GoAway(5)] == frames[len(expected) + 1 :]


def test_a_long_data_frame_is_given_in_pieces() -> None:
    """A data frame of 16 MiB is passed on as it arrives, and its end is reported with its last piece only."""
    reader = FrameReader()
    reader.feed(encode_data_head(1, 2**24 - 1, fin=True) + b"ab")
    assert Data(1, b"ab") == reader.next_frame()
    assert reader.next_frame() is None
    assert not reader.buffered
    reader.feed(bytes(2**24 - 3))
    assert Data(1, bytes(2**24 - 3), fin=True) == reader.next_frame()


def test_the_reader_holds_no_more_than_one_control_frame() -> None:
    """A control frame over the limit is refused by its length, before its bytes are buffered."""
    reader = FrameReader(Limits(control_frame=100))
    reader.feed(control(4, bytes(99)))
    with pytest.raises(ProtocolError, match="SETTINGS"):
        reader.next_frame()
    reader = FrameReader(Limits(control_frame=100))
    reader.feed(struct.pack(">HHI", 0x8003, 4, 101))
    with pytest.raises(ProtocolError, match="over the bound of 100"):
        reader.next_frame()


def test_a_drip_is_buffered_up_to_the_limit() -> None:
    """Of a control frame that arrives byte by byte no more than its length is buffered."""
    reader = FrameReader()
    for byte in struct.unpack("16391c", control(4, bytes(16 * 1024))[:-1]):
        reader.feed(byte)
        assert reader.next_frame() is None
    expected = 8 + 16 * 1024 - 1
    assert expected == reader.buffered


def test_an_error_stays() -> None:
    """After a protocol error the reader gives the same error again, whatever it is fed with."""
    reader = FrameReader()
    reader.feed(b"GET / HTTP/1.1\r\n")
    assert isinstance(reader.next_frame(), Data)  # "GET " reads as a data frame's stream id
    reader = FrameReader()
    reader.feed(control(99, b""))
    for _ in range(2):
        with pytest.raises(ProtocolError, match="type 99"):
            reader.next_frame()
        reader.feed(FrameWriter().encode(Ping(1)))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(control(6, b"\x00\x00\x00\x01", version=2), id="another version"),
        pytest.param(control(5, b""), id="an unknown type"),
        pytest.param(control(0, b""), id="type 0"),
        pytest.param(control(1, bytes(9)), id="a short SYN_STREAM"),
        pytest.param(control(1, bytes(10)), id="SYN_STREAM for stream 0"),
        pytest.param(control(1, b"\x80\x00\x00\x00" + bytes(6)), id="SYN_STREAM for stream 0 with the reserved bit"),
        pytest.param(control(1, b"\x00\x00\x00\x01" + bytes(6)), id="SYN_STREAM without a block"),
        pytest.param(control(2, b""), id="an empty SYN_REPLY"),
        pytest.param(control(8, b"\x00\x00\x00"), id="a short HEADERS"),
        pytest.param(control(3, bytes(7)), id="a short RST_STREAM"),
        pytest.param(control(3, b"\x00\x00\x00\x00\x00\x00\x00\x01"), id="RST_STREAM for stream 0"),
        pytest.param(control(3, b"\x00\x00\x00\x01\x00\x00\x00\x00"), id="RST_STREAM without a status"),
        pytest.param(control(4, b""), id="SETTINGS without a count"),
        pytest.param(control(4, b"\x00\x00\x00\x02" + bytes(8)), id="SETTINGS with a wrong count"),
        pytest.param(control(6, bytes(4)), id="PING 0"),
        pytest.param(control(6, b"\x00\x00\x00\x01", flags=1), id="PING with flags"),
        pytest.param(control(6, bytes(5)), id="a long PING"),
        pytest.param(control(7, bytes(4)), id="GOAWAY of SPDY/2"),
        pytest.param(control(7, bytes(8), flags=1), id="GOAWAY with flags"),
        pytest.param(control(9, bytes(9)), id="a long WINDOW_UPDATE"),
        pytest.param(struct.pack(">II", 0, 1) + b"x", id="data for stream 0"),
    ],
)
def test_malformed_frames_are_refused(frame: bytes) -> None:
    """What Go's reader refuses is a protocol error, and nothing else is raised."""
    with pytest.raises(ProtocolError):
        read([frame])


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_garbage_is_read_or_refused(chunks: list[bytes]) -> None:
    """Any input gives frames or a protocol error; the buffered bytes are bounded by one control frame and a chunk."""
    reader = FrameReader(Limits(control_frame=32))
    with contextlib.suppress(ProtocolError):
        read(chunks, reader)
    assert reader.buffered <= 40 + 64
