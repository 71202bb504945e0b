import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.nri.multiplex import MAX_FRAME, Decoder, FrameTooLong, Trunk, encode
from crishim.ttrpc.frames import HEADER
from crishim.ttrpc.frames import encode as message

MESSAGES = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=9000)), max_size=5)


def whole(data: bytes, stream: int = 1) -> bytes:
    """A ttrpc message."""
    return message(stream, 1, 0, data)


@given(MESSAGES, st.integers(1, 5000))
def test_messages_survive_any_cut(messages: list[tuple[int, bytes]], size: int) -> None:
    """What was encoded is decoded in its order, however the bytes are cut on their way."""
    data = b"".join(encode(channel, whole(content)) for channel, content in messages)
    decoder = Decoder()
    read: dict[int, bytes] = {}
    for at in range(0, len(data), size):
        for channel, content in decoder.feed(data[at : at + size]):
            read[channel] = read.get(channel, b"") + content
    written: dict[int, bytes] = {}
    for channel, content in messages:
        written[channel] = written.get(channel, b"") + whole(content)
    assert written == read


def test_frames_as_peers_in_go_read_them() -> None:
    """The first 4,096 bytes of each message are a frame, and the rest another: a peer reads them into buffers of that size."""
    data = encode(2, whole(bytes(5000)) + whole(b"x"))
    sizes = [len(content) for _, content in Decoder().feed(data)]
    assert [4096, HEADER.size + 5000 - 4096, HEADER.size + 1] == sizes


@given(st.binary(max_size=64))
def test_garbage(data: bytes) -> None:
    """Any bytes are frames, the beginning of one, or too long."""
    try:
        frames = Decoder().feed(data)
    except FrameTooLong:
        frames = []
    assert all(len(content) <= MAX_FRAME for _, content in frames)


async def test_a_frame_that_is_too_long_ends_the_connection() -> None:
    """A length over a whole message is believed by nobody: nothing is awaited or allocated for it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    trunk = Trunk()
    ended = asyncio.Event()

    class Ending(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            ended.set()

    trunk.channel(1).bind(Ending())
    await asyncio.get_running_loop().connect_accepted_socket(lambda: trunk, ours)
    with theirs:
        theirs.sendall(b"\0\0\0\1\xff\xff\xff\xff")
        await asyncio.wait_for(ended.wait(), 10)
    assert trunk.is_closing


@pytest.mark.parametrize("number", [0, 3, 2**32 - 1])
async def test_frames_of_no_channel(number: int) -> None:
    """They are dropped, and the channels go on."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    trunk = Trunk()
    got = asyncio.get_running_loop().create_future()

    class Reading(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            got.set_result(data)

    trunk.channel(1).bind(Reading())
    await asyncio.get_running_loop().connect_accepted_socket(lambda: trunk, ours)
    with theirs:
        theirs.sendall(encode(number, whole(b"lost")) + encode(1, whole(b"read")))
        assert whole(b"read") == await asyncio.wait_for(got, 10)
    trunk.close()
