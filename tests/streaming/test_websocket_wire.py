import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.streaming.events import ConnectionEnded, Ending
from crishim.streaming.flow import Limits
from crishim.streaming.websocket_wire import Piece, WebSocketWire

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(payload: bytes = b"", opcode: int = BINARY, *, fin: bool = True, mask: bytes = b"mask") -> bytes:
    """A client's frame."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else struct.pack(">BH", 0xFE, size) if size < 65536 else b""
    masked = bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(mask), strict=False))
    return bytes((fin << 7 | opcode,)) + (length or struct.pack(">BQ", 0xFF, size)) + mask + masked


@pytest.fixture
def wire() -> WebSocketWire:
    return WebSocketWire(Limits())


def test_a_message_is_one_piece_when_it_comes_whole(wire: WebSocketWire) -> None:
    """Text and binary messages are distinguished."""
    expected = [Piece(b"a", last=True, is_text=False), Piece("é".encode(), last=True, is_text=True)]
    assert expected == list(wire.pieces(frame(b"a") + frame("é".encode(), TEXT)))


def test_fragments_are_pieces_of_one_message(wire: WebSocketWire) -> None:
    """Only the last fragment ends the message, and a ping may come between."""
    whole = frame(b"a", fin=False) + frame(b"", PING) + frame(b"b", 0)
    expected = [Piece(b"a", last=False, is_text=False), Piece(b"b", last=True, is_text=False)]
    assert expected == list(wire.pieces(whole))


def test_pings_are_answered_with_their_payload(wire: WebSocketWire) -> None:
    """A pong says what the ping said; pongs of the client are nothing."""
    assert not list(wire.pieces(frame(b"hi", PING) + frame(b"ho", PONG)))
    expected = [b"\x8a\x02hi"]
    assert expected == wire.outbox.take()


@pytest.mark.parametrize(("payload", "answer"), [(b"\x03\xe8", b"\x88\x02\x03\xe8"), (b"", b"\x88\x00")])
def test_a_close_is_answered_and_ends(wire: WebSocketWire, payload: bytes, answer: bytes) -> None:
    """Close comes back with its code; nothing is understood after it."""
    (event,) = list(wire.pieces(frame(payload, CLOSE) + frame(b"late")))
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.CLOSED
    assert [answer] == wire.outbox.take()
    assert wire.ended
    assert not list(wire.pieces(frame(b"later")))
    assert not wire.eof()


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        pytest.param(b"\x83\x80mask", 1002, id="an unknown opcode"),
        pytest.param(b"\x82\x01a", 1002, id="no mask"),
        pytest.param(b"\xc2\x81maska", 1002, id="a reserved bit"),
        pytest.param(frame(b"x", PING, fin=False), 1002, id="a fragmented ping"),
        pytest.param(b"\x89\xfe\x00\x7emask", 1002, id="a long ping"),
        pytest.param(frame(b"x", 0), 1002, id="a continuation of nothing"),
        pytest.param(frame(b"\xff", TEXT), 1007, id="text that is no UTF-8"),
        pytest.param(frame(b"\x03", CLOSE), 1002, id="half a close code"),
        pytest.param(frame(b"\x03\xed", CLOSE), 1002, id="a close code that may not be sent"),
        pytest.param(frame(b"\x03\xe8\xff", CLOSE), 1007, id="a close reason that is no UTF-8"),
    ],
)
def test_what_the_standard_forbids_is_a_violation(wire: WebSocketWire, garbage: bytes, code: int) -> None:
    """A frame that RFC 6455 forbids ends the connection with the Close code that fits."""
    (event,) = list(wire.pieces(garbage))
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.VIOLATION
    (close,) = wire.outbox.take()
    assert (0x88, struct.pack(">H", code)) == (close[0], close[2:4])


def test_a_socket_that_ends_is_lost(wire: WebSocketWire) -> None:
    """The end of the socket without a Close is reported once."""
    (event,) = wire.eof()
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.LOST
    assert not wire.eof()


def test_long_frames_are_not_gathered(wire: WebSocketWire) -> None:
    """A frame that announces a gigabyte is handed on as it comes."""
    head = b"\x82\xff" + struct.pack(">Q", 2**30) + bytes(4)
    pieces = list(wire.pieces(head + b"a")) + list(wire.pieces(b"b"))
    expected = [Piece(b"a", last=False, is_text=False), Piece(b"b", last=False, is_text=False)]
    assert expected == pieces


@given(st.lists(st.tuples(st.binary(max_size=200), st.booleans()), min_size=1, max_size=5), st.lists(st.integers(0)))
def test_any_split_gives_the_same_messages(messages: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    """Messages come out in order, wherever the bytes are cut."""
    whole = b"".join(
        frame(payload[:9], fin=False) + frame(payload[9:], 0) if split else frame(payload) for payload, split in messages
    )
    borders = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    wire, got, current = WebSocketWire(Limits()), [], b""
    for start, end in itertools.pairwise(borders):
        for piece in wire.pieces(whole[start:end]):
            assert isinstance(piece, Piece)
            current += piece.data
            if piece.last:
                got.append(current)
                current = b""
    assert [payload for payload, _ in messages] == got
