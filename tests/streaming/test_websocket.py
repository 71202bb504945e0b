import base64
import itertools
import struct
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.streaming.channels import V1, V1_BASE64, V4, V4_BASE64, V5, ChannelProtocol, StreamType, expected_streams
from crishim.streaming.events import (
    ConnectionEnded,
    DataReceived,
    Ending,
    Event,
    StreamCodec,
    StreamEnded,
    StreamOpened,
    StreamReset,
)
from crishim.streaming.flow import Limits
from crishim.streaming.portforward import Pair, Pairing, admit_forward
from crishim.streaming.spdy import SpdySession
from crishim.streaming.websocket import ChannelSession, TunnelSession, port_forward_session, remote_command_session

Captured = Callable[[str, str], tuple[bytes, bytes]]
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
EXEC = expected_streams(stdin=True, stdout=True, stderr=True, tty=False, resize=True)
TERMINAL = expected_streams(stdin=True, stdout=True, stderr=False, tty=True, resize=True)


def frame(payload: bytes = b"", opcode: int = BINARY, *, fin: bool = True) -> bytes:
    """A client's frame; its mask is zeros."""
    size = len(payload)
    length = struct.pack(">B", 0x80 | size) if size < 126 else struct.pack(">BH", 0xFE, size)
    return bytes((fin << 7 | opcode,)) + length + bytes(4) + payload


def sent(session: StreamCodec) -> list[tuple[int, bytes]]:
    """What the session has to say: opcode and payload of each frame, all of them whole messages."""
    out = b"".join(session.data_to_send())
    messages = []
    while out:
        assert out[0] & 0x80
        size, head = out[1], 2
        if size == 126:
            size, head = int.from_bytes(out[2:4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(out[2:10], "big"), 10
        messages.append((out[0] & 15, out[head : head + size]))
        out = out[head + size :]
    return messages


def merged(events: Iterable[Event]) -> list[Event]:
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, DataReceived) and isinstance(last, DataReceived) and last.stream_id == event.stream_id:
            out[-1] = DataReceived(event.stream_id, last.data + event.data)
        else:
            out.append(event)
    return out


def feed(session: StreamCodec, whole: bytes, cuts: Iterable[int]) -> list[Event]:
    borders = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    return merged(event for a, b in itertools.pairwise(borders) for event in session.receive_bytes(whole[a:b]))


def started(session: ChannelSession) -> ChannelSession:
    session.start()
    session.data_to_send()
    return session


@pytest.fixture
def session() -> ChannelSession:
    return started(remote_command_session(V5, EXEC))


def test_channels_are_reported_as_streams() -> None:
    """The channels of an exec open at the start, with the header a SPDY client would send."""
    names = {0: "stdin", 1: "stdout", 2: "stderr", 3: "error"}
    events = remote_command_session(V4, EXEC).start()
    assert {StreamOpened(number, (("streamtype", name),)) for number, name in names.items()} == set(events)
    expected = [3, 0, 1, 4]
    events = remote_command_session(V4, TERMINAL).start()
    assert expected == [event.stream_id for event in events if isinstance(event, StreamOpened)]


@pytest.mark.parametrize(
    ("streams", "channel"),
    [("error stdin stdout stderr", 1), ("error stdin stderr", 2), ("error stdin", 3)],
)
def test_an_empty_message_says_ready(streams: str, channel: int) -> None:
    """The first thing sent is an empty message on the lowest channel that we write."""
    session = remote_command_session(V4, map(StreamType, streams.split()))
    session.start()
    assert [(BINARY, bytes((channel,)))] == sent(session)


def test_messages_carry_their_channel(session: ChannelSession) -> None:
    """One byte of channel in front, in both directions."""
    assert [DataReceived(0, b"in")] == session.receive_bytes(frame(b"\x00in"))
    assert all((session.send_data(1, b"out"), session.send_data(3, b"error"), session.send_data(1, b"")))
    expected = [(BINARY, b"\x01out"), (BINARY, b"\x03error")]
    assert expected == sent(session)


def test_a_message_may_come_in_fragments(session: ChannelSession) -> None:
    """The channel byte stands once per message, also when it is a fragment of its own."""
    whole = frame(b"", fin=False) + frame(b"\x00", 0, fin=False) + frame(b"ab", 0, fin=False) + frame(b"c", 0)
    assert [DataReceived(0, b"abc")] == merged(session.receive_bytes(whole))
    assert [DataReceived(0, b"d")] == session.receive_bytes(frame(b"\x00d"))


def test_the_close_signal_ends_stdin(session: ChannelSession) -> None:
    """FF 00 is the end of stdin; later data for it is dropped, as is a second signal."""
    assert [StreamEnded(0)] == session.receive_bytes(frame(b"\xff\x00") + frame(b"\x00x") + frame(b"\xff\x00"))


def test_the_close_signal_may_come_in_fragments(session: ChannelSession) -> None:
    """The two bytes may stand in two frames."""
    assert [StreamEnded(0)] == session.receive_bytes(frame(b"\xff", fin=False) + frame(b"\x00", 0))


def test_the_close_signal_for_our_channels_is_nothing(session: ChannelSession) -> None:
    """A client that ends stdout says nothing new."""
    assert not session.receive_bytes(frame(b"\xff\x01"))
    assert session.send_data(1, b"x")


@pytest.mark.parametrize("signal", [b"\xff", b"\xff\x00\x00", b"\xff\x09", b"\xff" + bytes(1000)])
def test_a_malformed_close_signal_is_a_violation(session: ChannelSession, signal: bytes) -> None:
    """A close signal is two bytes, and the second is a channel of this session."""
    (event,) = session.receive_bytes(frame(signal) + frame(b"\x00x"))
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.VIOLATION
    ((opcode, payload),) = sent(session)
    expected = (CLOSE, 1002)
    assert expected == (opcode, int.from_bytes(payload[:2], "big"))


def test_before_v5_255_is_an_unknown_channel() -> None:
    """Without v5 the signal ends nothing."""
    session = started(remote_command_session(V4, EXEC))
    assert [DataReceived(0, b"x")] == session.receive_bytes(frame(b"\xff\x00") + frame(b"\x00x"))


def test_other_channels_are_dropped(session: ChannelSession) -> None:
    """Empty messages, and those for channels that were not requested or that only we write, are ignored."""
    whole = b"".join(frame(payload) for payload in (b"", b"\x01x", b"\x03x", b"\x04{}", b"\x09x", b"\x00"))
    assert not session.receive_bytes(whole)
    assert not session.unread


def test_only_our_channels_take_data(session: ChannelSession) -> None:
    """Stdin and channels that are not there take nothing of ours, ended and reset ones neither."""
    session.end_stream(1)
    session.reset_stream(2)
    assert not any(session.send_data(channel, b"x") for channel in (0, 1, 2, 4, 9))
    assert not sent(session)


def test_resize_has_its_channel() -> None:
    """With a terminal channel 4 is there, in every version."""
    session = started(remote_command_session(V1, TERMINAL))
    assert [DataReceived(4, b'{"Width":80,"Height":24}')] == session.receive_bytes(frame(b'\x04{"Width":80,"Height":24}'))


@pytest.mark.parametrize("protocol", [V4_BASE64, V1_BASE64])
@given(payload=st.binary(max_size=40), cuts=st.lists(st.integers(0), max_size=8))
def test_base64_is_text_in_both_directions(protocol: ChannelProtocol, payload: bytes, cuts: list[int]) -> None:
    """A digit and base64, in text messages, also when frames cut the base64 anywhere."""
    session = started(remote_command_session(protocol, EXEC))
    message = b"0" + base64.b64encode(payload)
    middle = len(message) // 2
    whole = frame(message[:middle], TEXT, fin=False) + frame(message[middle:], 0) + frame(b"0QQ==", TEXT)
    assert [DataReceived(0, payload + b"A")] == feed(session, whole, cuts)
    session.send_data(1, payload)
    assert [(TEXT, b"1" + base64.b64encode(payload))] == sent(session) or not payload


@pytest.mark.parametrize("payload", [b"0Q", b"0QQ", b"0QQ=", b"0QQ==QQ==", b"0Q===", b"0$$$$", b"0QQ==\n", b"0=QQ="])
def test_what_is_not_base64_is_a_violation(payload: bytes) -> None:
    """Base64 has its padding, once, and nothing else in it."""
    session = started(remote_command_session(V4_BASE64, EXEC))
    event = session.receive_bytes(frame(payload, TEXT))[-1]
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.VIOLATION


def test_base64_does_not_go_on_after_its_padding() -> None:
    """Padding ends the payload, also when the rest comes in another frame."""
    session = started(remote_command_session(V4_BASE64, EXEC))
    events = session.receive_bytes(frame(b"0QQ==", TEXT, fin=False) + frame(b"QQ==", 0))
    assert [DataReceived, ConnectionEnded] == [type(event) for event in events]


def test_closing_is_a_close_behind_everything(session: ChannelSession) -> None:
    """What was queued comes first, then Close 1000, and then nothing is understood."""
    session.send_data(3, b'{"status":"Success"}')
    session.close()
    session.close()
    expected = [(BINARY, b'\x03{"status":"Success"}'), (CLOSE, b"\x03\xe8")]
    assert expected == sent(session)
    assert session.ended
    assert not session.receive_bytes(frame(b"\x00x") + frame(b"\x03\xe8", CLOSE))
    assert not session.send_data(1, b"x")


def test_a_close_of_the_client_ends(session: ChannelSession) -> None:
    """Close is answered, and ends the connection as closed."""
    (event,) = session.receive_bytes(frame(b"\x03\xe8", CLOSE))
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.CLOSED
    expected = [(CLOSE, b"\x03\xe8")]
    assert expected == sent(session)
    assert not session.receive_eof()


def test_a_crowded_channel_stops_the_reading() -> None:
    """Unconsumed bytes count until they are consumed or their stream is reset."""
    session = started(remote_command_session(V5, TERMINAL, limits=Limits(stream_unread=100, unread=150)))
    seen = []
    for step in (
        lambda: session.receive_bytes(frame(b"\x00" + bytes(100))),
        lambda: session.consumed(0, 1),
        lambda: session.receive_bytes(frame(b"\x04" + bytes(60))),
        lambda: session.reset_stream(0),
    ):
        step()
        seen.append((session.wants_read, session.unread))
    expected = [(False, 100), (True, 99), (False, 159), (True, 60)]
    assert expected == seen


def test_pings_with_unsent_answers_stop_the_reading(session: ChannelSession) -> None:
    """Pongs are owed, and counted."""
    pings = frame(bytes(100), PING) * 100
    while session.wants_read:
        session.receive_bytes(pings)
    assert session.unsent <= Limits().owed + len(pings)
    session.data_to_send()
    assert session.wants_read


def test_a_stalled_client_stops_the_writing(session: ChannelSession) -> None:
    """Queued bytes over the bound stop the writing, not the reading."""
    session.send_data(1, bytes(256 * 1024))
    stalled = (session.wants_write, session.wants_read)
    session.data_to_send()
    expected = ((False, True), (True, True))
    assert expected == (stalled, (session.wants_write, session.wants_read))


def test_port_forward_begins_with_the_ports() -> None:
    """Two channels a port, each beginning with the port in little-endian; they pair as SPDY's streams do."""
    session = port_forward_session(V4, [80, 8080])
    pairing = Pairing()
    pairs = [pairing.add(event, 0.0) for event in session.start() if isinstance(event, StreamOpened)]
    assert [None, Pair(80, data_id=0, error_id=1), None, Pair(8080, data_id=2, error_id=3)] == pairs
    ports = [b"\x01\x50\x00", b"\x00\x50\x00", b"\x03\x90\x1f", b"\x02\x90\x1f"]
    assert [(BINARY, port) for port in ports] == sent(session)
    assert [DataReceived(2, b"GET")] == session.receive_bytes(frame(b"\x01x") + frame(b"\x02GET"))


@pytest.mark.parametrize("name", ["exec-stdin", "exec-tty-resize", "portforward"])
@given(cuts=st.lists(st.integers(0), max_size=20), sizes=st.lists(st.integers(0, 100), max_size=20))
def test_a_tunnel_is_spdy_in_any_split(captured: Captured, name: str, cuts: list[int], sizes: list[int]) -> None:
    """Captured SPDY bytes in messages of any size give the same events as without them."""
    whole = captured(f"{name}-spdy", "client")[1]
    plain = SpdySession(admit=admit_forward) if name == "portforward" else SpdySession()
    borders = [0, *itertools.accumulate(sizes)]
    parts = [whole[a:b] for a, b in itertools.pairwise(borders)] + [whole[borders[-1] :]]
    tunnel = TunnelSession(admit=admit_forward) if name == "portforward" else TunnelSession()
    assert not tunnel.start()
    assert merged(plain.receive_bytes(whole)) == feed(tunnel, b"".join(map(frame, parts)), cuts)
    assert b"".join(plain.data_to_send()) == b"".join(payload for _, payload in sent(tunnel))
    assert plain.unread == tunnel.unread


def test_a_tunnel_sends_one_message_for_what_waits(captured: Captured) -> None:
    """What the SPDY session queued goes out in one binary message; actions reach it, and closing is GOAWAY and Close 1000."""
    tunnel = TunnelSession()
    tunnel.receive_bytes(frame(captured("exec-spdy", "client")[1]))
    sent(tunnel)
    assert tunnel.send_data(3, b"out\n")
    tunnel.end_stream(3)
    tunnel.reset_stream(5)
    assert tunnel.unsent
    out = struct.pack(">II", 3, 4) + b"out\n" + struct.pack(">II", 3, 1 << 24)
    cancel = struct.pack(">HHIII", 0x8003, 3, 8, 5, 5)
    assert [(BINARY, out + cancel)] == sent(tunnel)
    tunnel.close()
    resets = struct.pack(">HHIII", 0x8003, 3, 8, 1, 5) + struct.pack(">HHIII", 0x8003, 7, 8, 5, 0)
    assert [(BINARY, resets), (CLOSE, b"\x03\xe8")] == sent(tunnel)
    assert tunnel.ended
    assert not tunnel.send_data(1, b"x")


def test_text_in_a_tunnel_is_a_violation() -> None:
    """Only binary messages hold SPDY; text is answered by Close 1003."""
    tunnel = TunnelSession()
    (event,) = tunnel.receive_bytes(frame(b"x", TEXT) + frame(b"y"))
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.VIOLATION
    ((opcode, payload),) = sent(tunnel)
    expected = (CLOSE, 1003)
    assert expected == (opcode, int.from_bytes(payload[:2], "big"))


def test_garbage_in_a_tunnel_is_answered_by_both() -> None:
    """A SPDY violation sends GOAWAY in a message, and then Close."""
    tunnel = TunnelSession()
    (event,) = tunnel.receive_bytes(frame(b"\xff" * 8) + frame(b"more"))
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.VIOLATION
    goaway = struct.pack(">HHIII", 0x8003, 7, 8, 0, 1)
    assert [(BINARY, goaway), (CLOSE, b"\x03\xe8")] == sent(tunnel)


def test_a_tunnel_ends_with_its_websocket(captured: Captured) -> None:
    """Close 1000 is the end of the SPDY connection; so is the end of the socket."""
    closed, lost = TunnelSession(), TunnelSession()
    (event,) = closed.receive_bytes(frame(b"\x03\xe8", CLOSE))
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.CLOSED
    assert not closed.receive_bytes(frame(captured("exec-spdy", "client")[1]))
    (event,) = lost.receive_eof()
    assert isinstance(event, ConnectionEnded)
    assert event.how is Ending.LOST
    assert not lost.receive_eof()


def test_a_tunnel_has_the_bounds_of_spdy(captured: Captured) -> None:
    """A full stream stops the reading of the tunnel, as do pongs and queued bytes that are not sent."""
    tunnel = TunnelSession(limits=Limits(stream_unread=10, owed=200, unsent=100))
    tunnel.receive_bytes(frame(captured("attach-spdy", "client")[1][:-22]))
    seen = [tunnel.wants_read]
    tunnel.data_to_send()
    tunnel.receive_bytes(frame(struct.pack(">II", 3, 10) + bytes(10)))
    seen.append(tunnel.wants_read)
    tunnel.consumed(3, 100)
    seen.append(tunnel.wants_read)
    tunnel.receive_bytes(frame(bytes(100), PING) * 2)
    seen.append(tunnel.wants_read)
    tunnel.send_data(5, bytes(100))
    seen.append(tunnel.wants_write)
    tunnel.data_to_send()
    seen += [tunnel.wants_read, tunnel.wants_write]
    expected = [True, False, True, False, False, True, True]
    assert expected == seen


@given(st.lists(st.binary(max_size=40), max_size=10), st.sampled_from([V5, V4, V4_BASE64]))
def test_garbage_never_raises(payloads: list[bytes], protocol: ChannelProtocol) -> None:
    """Whatever the messages say, and the bytes between them, events come out; the last of them is the end, if it came."""
    whole = b"".join(
        payload if index % 4 == 3 else frame(payload, BINARY if index % 2 else TEXT) for index, payload in enumerate(payloads)
    )
    sessions: list[StreamCodec] = [remote_command_session(protocol, EXEC), TunnelSession()]
    for session in sessions:
        events = session.receive_bytes(whole)
        assert session.ended == any(isinstance(event, ConnectionEnded) for event in events)
        assert not any(isinstance(event, ConnectionEnded | StreamReset) for event in events[:-1])
        assert session.unread <= len(whole)


def test_what_a_tunnel_had_to_say_is_lost_with_it(captured: Captured) -> None:
    """When the client closes the WebSocket, SPDY's queued frames are dropped, and nothing can be queued any more."""
    tunnel = TunnelSession()
    tunnel.receive_bytes(frame(captured("exec-spdy", "client")[1]) + frame(b"\x03\xe8", CLOSE))
    tunnel.reset_stream(1)
    tunnel.end_stream(3)
    expected = [(CLOSE, b"\x03\xe8")]
    assert expected == sent(tunnel)
    assert not tunnel.unsent


def test_channels_above_nine_are_one_character() -> None:
    """The base64 protocols name a channel by one character from "0" on, as Go's wsstream counts them."""
    session = port_forward_session(V4_BASE64, tuple(range(1, 8)))
    session.start()
    sent(session)
    assert session.send_data(12, b"x")
    assert [(TEXT, b"<" + base64.b64encode(b"x"))] == sent(session)
