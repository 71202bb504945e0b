import itertools
import random
import struct
import zlib
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crishim.streaming.events import (
    ConnectionEnded,
    DataReceived,
    Ending,
    Event,
    HeadersReceived,
    StreamAccepted,
    StreamCodec,
    StreamEnded,
    StreamOpened,
    StreamReset,
)
from crishim.streaming.flow import Limits
from crishim.streaming.spdy import TRANSITIONS, Role, SpdySession, State, StreamSignal
from crishim.streaming.spdy_frames import RstStatus
from crishim.streaming.spdy_headers import DICTIONARY

Captured = Callable[[str, str], tuple[bytes, bytes]]
Reply = tuple[int, int, int, bytes]  # type (0 for data), flags, the first 32 bits (or the stream id), what follows


class Client:
    """The other end, written from the facts: it shares no line with the codec but the dictionary."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def block(self, *headers: tuple[bytes, bytes]) -> bytes:
        words = [word for pair in headers for word in pair]
        raw = struct.pack(">I", len(headers)) + b"".join(struct.pack(">I", len(word)) + word for word in words)
        return self._deflate.compress(raw) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def syn(self, stream_id: int, kind: bytes = b"stdin", *, flags: int = 0) -> bytes:
        return control(1, struct.pack(">IIH", stream_id, 0, 0) + self.block((b"streamtype", kind)), flags)


def control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload


def data(stream_id: int, payload: bytes = b"", *, fin: bool = False) -> bytes:
    return struct.pack(">II", stream_id, fin << 24 | len(payload)) + payload


def reset(stream_id: int, status: int = 5) -> bytes:
    return control(3, struct.pack(">II", stream_id, status))


GOAWAY = control(7, struct.pack(">II", 0, 0))
SYN_REPLY, RST, PING, GOAWAY_TYPE = 2, 3, 6, 7


def sent(session: StreamCodec) -> list[Reply]:
    """What the session has to say, taken apart by hand."""
    out = b"".join(session.data_to_send())
    replies = []
    while out:
        first, second = struct.unpack_from(">II", out)
        body, out = out[8 : 8 + (second & 0xFFFFFF)], out[8 + (second & 0xFFFFFF) :]
        if first >> 31:
            replies.append((first & 0xFFFF, second >> 24, int.from_bytes(body[:4], "big"), body[4:]))
        else:
            replies.append((0, second >> 24, first, body))
    return replies


def merged(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbouring data of one stream in one."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, DataReceived) and isinstance(last, DataReceived) and last.stream_id == event.stream_id:
            out[-1] = DataReceived(event.stream_id, last.data + event.data)
        else:
            out.append(event)
    return out


def feed(session: StreamCodec, whole: bytes, cuts: Iterable[int] = ()) -> list[Event]:
    borders = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    return [event for a, b in itertools.pairwise(borders) for event in session.receive_bytes(whole[a:b])]


def opened(stream_id: int, kind: str = "stdin") -> StreamOpened:
    return StreamOpened(stream_id, (("streamtype", kind),))


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def session() -> SpdySession:
    return SpdySession()


EXPECTED: dict[str, list[Event]] = {
    "exec-spdy": [opened(1, "error"), opened(3, "stdout"), opened(5, "stderr")],
    "exec-stdin-spdy": [
        *(opened(number, kind) for number, kind in zip((1, 3, 5, 7), ("error", "stdin", "stdout", "stderr"), strict=True)),
        DataReceived(3, b"line1\nline2\n"),
        StreamEnded(3),
        StreamReset(5, 5),
        StreamReset(7, 5),
    ],
    "attach-spdy": [
        *(opened(number, kind) for number, kind in zip((1, 3, 5, 7), ("error", "stdin", "stdout", "stderr"), strict=True)),
        DataReceived(3, b"hello\n"),
        StreamEnded(3),
    ],
    "exec-tty-resize-spdy": [
        *(opened(number, kind) for number, kind in zip((1, 3, 5, 7), ("error", "stdin", "stdout", "resize"), strict=True)),
        DataReceived(7, b'{"Width":80,"Height":24}\n'),
        DataReceived(3, b"stty size\r"),
        DataReceived(7, b'{"Width":120,"Height":40}\n'),
        DataReceived(3, b"stty size\rexit 3\r"),
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
@given(cuts=st.lists(st.integers(0), max_size=20))
def test_captured_clients_are_understood_in_any_split(captured: Captured, name: str, cuts: list[int]) -> None:
    """What crictl sends gives the same events however it is cut, and every stream is answered by an empty reply."""
    session = SpdySession()
    events = feed(session, captured(name, "client")[1], cuts)
    assert EXPECTED[name] == merged(events)
    streams = [event.stream_id for event in events if isinstance(event, StreamOpened)]
    assert [(SYN_REPLY, 0, stream_id) for stream_id in streams] == [reply[:3] for reply in sent(session)]


def test_a_captured_port_forward_ends_with_goaway(captured: Captured) -> None:
    """Four streams in two pairs; the client resets the last data stream after our answers, and sends GOAWAY."""
    session = SpdySession()
    whole = captured("portforward-spdy", "client")[1]
    events = session.receive_bytes(whole[: -len(GOAWAY)])
    for stream_id in (1, 3, 5, 7):
        session.end_stream(stream_id)
        session.consumed(stream_id, 1000)
    events += session.receive_bytes(whole[-len(GOAWAY) :])
    expected = [1, 3, 5, 7]
    assert expected == [event.stream_id for event in events if isinstance(event, StreamOpened)]
    assert [StreamReset(7, 5), ConnectionEnded(Ending.CLOSED, "the peer sent GOAWAY")] == events[-2:]
    assert session.ended
    assert not session.streams


def test_a_captured_server_is_understood_by_the_client_role(captured: Captured) -> None:
    """The answers of containerd, read as a client that opened the same streams, are accepted streams, output and ends."""
    session = SpdySession(Role.CLIENT)
    for kind in ("error", "stdout", "stderr"):
        session.open_stream((("streamtype", kind),))
    events = merged(session.receive_bytes(captured("exec-spdy", "server")[1]))
    expected = [
        *(StreamAccepted(stream_id, ()) for stream_id in (1, 3, 5)),
        *(DataReceived(3, b"out\n"), StreamEnded(3), DataReceived(5, b"err\n"), StreamEnded(5)),
    ]
    assert expected == events[:7]
    assert [DataReceived, StreamReset] == [type(event) for event in events[7:]]


def test_every_transition_is_in_the_table() -> None:
    """A closed stream is never left, and every other state can be reset."""
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.CLOSED}
    assert all(TRANSITIONS[state, StreamSignal.RESET] is State.CLOSED for state in State if state is not State.CLOSED)


def test_a_stream_is_answered_before_the_next_one_comes(session: SpdySession, client: Client) -> None:
    """Clients wait for each reply, so it is there after the frame that opens the stream."""
    for stream_id in (1, 3):
        assert [opened(stream_id)] == session.receive_bytes(client.syn(stream_id))
        assert [(SYN_REPLY, 0, stream_id)] == [reply[:3] for reply in sent(session)]


def test_data_behind_the_opening_is_welcome(session: SpdySession, client: Client) -> None:
    """A client that does not wait for the reply loses nothing."""
    assert [opened(1), DataReceived(1, b"x")] == session.receive_bytes(client.syn(1) + data(1, b"x") + data(1))


def test_both_halves_end_on_their_own(session: SpdySession, client: Client) -> None:
    """The peer's end leaves our half open, ours comes behind the data, and then the stream is gone."""
    assert [opened(1), StreamEnded(1)] == session.receive_bytes(client.syn(1) + data(1, fin=True))
    sent(session)
    assert session.send_data(1, b"answer")
    session.end_stream(1)
    session.end_stream(1)
    expected = [(0, 0, 1, b"answer"), (0, 1, 1, b"")]
    assert expected == sent(session)
    assert not session.send_data(1, b"more")
    assert not session.streams


def test_data_behind_the_end_is_dropped(session: SpdySession, client: Client) -> None:
    """Once the peer has ended its half, and for streams that never were, data is nothing."""
    session.receive_bytes(client.syn(1) + data(1, fin=True))
    assert not session.receive_bytes(data(1, b"x") + data(1, fin=True) + data(9, b"x") + reset(9))
    assert not session.unread


def test_we_may_end_first(session: SpdySession, client: Client) -> None:
    """After our end the peer may still send, and then end."""
    session.receive_bytes(client.syn(1))
    session.end_stream(1)
    assert [DataReceived(1, b"x"), StreamEnded(1)] == session.receive_bytes(data(1, b"x", fin=True))
    session.consumed(1, 1)
    assert not session.streams


def test_a_stream_may_open_with_its_end(session: SpdySession, client: Client) -> None:
    """FIN on SYN_STREAM ends the peer's half at once."""
    assert [opened(1), StreamEnded(1)] == session.receive_bytes(client.syn(1, flags=1))
    expected = {1: State.PEER_ENDED}
    assert expected == session.streams


def test_a_unidirectional_stream_gets_no_answer(session: SpdySession, client: Client) -> None:
    """A unidirectional stream is not replied to, and takes no data of ours."""
    assert [opened(1), DataReceived(1, b"x")] == session.receive_bytes(client.syn(1, flags=2) + data(1, b"x"))
    assert not session.send_data(1, b"y")
    assert not sent(session)


def test_a_reset_ends_both_halves(session: SpdySession, client: Client) -> None:
    """The peer's reset is reported with its status; nothing can be sent after it, and nothing is answered."""
    session.receive_bytes(client.syn(1) + data(1, b"abc"))
    sent(session)
    assert [StreamReset(1, 8)] == session.receive_bytes(reset(1, 8))
    assert not session.send_data(1, b"x")
    session.end_stream(1)
    session.reset_stream(1)
    expected: tuple[list[Reply], int, int] = ([], 0, 0)
    assert expected == (sent(session), session.unread, len(session.streams))


def test_we_may_reset(session: SpdySession, client: Client) -> None:
    """Our reset is sent once, frees unconsumed bytes, and later data is dropped."""
    session.receive_bytes(client.syn(1) + data(1, b"abc"))
    sent(session)
    session.reset_stream(1)
    session.reset_stream(1)
    assert [(RST, 0, 1, struct.pack(">I", 5))] == sent(session)
    assert not session.unread
    assert not session.receive_bytes(data(1, b"late") + data(1, fin=True) + reset(1))


@pytest.mark.parametrize("stream_id", [2, 1])
def test_bad_ids_are_reset(session: SpdySession, client: Client, stream_id: int) -> None:
    """An id of our parity, or smaller than one before, is reset with a protocol error and opens nothing."""
    session.receive_bytes(client.syn(3))
    sent(session)
    assert not session.receive_bytes(client.syn(stream_id))
    assert [(RST, 0, stream_id, struct.pack(">I", 1))] == sent(session)
    assert [DataReceived(3, b"x")] == session.receive_bytes(data(3, b"x"))


def test_a_duplicate_id_costs_the_open_stream(session: SpdySession, client: Client) -> None:
    """The reset for a repeated id is one for the stream that has it, so both ends agree that it is gone."""
    session.receive_bytes(client.syn(1))
    sent(session)
    assert [StreamReset(1, 1)] == session.receive_bytes(client.syn(1))
    assert [(RST, 0, 1, struct.pack(">I", 1))] == sent(session)
    assert [opened(3)] == session.receive_bytes(client.syn(3))


def test_a_stream_may_be_refused(client: Client) -> None:
    """What `admit` does not want is reset with its status; the compressed headers stay readable."""
    session = SpdySession(admit=lambda stream: RstStatus.CANCEL if stream == opened(1, "udp") else None)
    assert [opened(3)] == session.receive_bytes(client.syn(1, b"udp") + data(1, b"x") + client.syn(3))
    expected = [(RST, 0, 1), (SYN_REPLY, 0, 3)]
    assert expected == [reply[:3] for reply in sent(session)]


def test_unknown_stream_types_are_opened(session: SpdySession, client: Client) -> None:
    """The codec does not know what types mean: an unknown one is a stream like others."""
    assert [opened(1, "telemetry")] == session.receive_bytes(client.syn(1, b"telemetry"))


def test_streams_have_a_bound(client: Client) -> None:
    """One stream more than the bound is refused; a closed stream counts until its bytes are consumed."""
    session = SpdySession(limits=Limits(streams=1))
    session.receive_bytes(client.syn(1) + data(1, b"abc", fin=True))
    session.end_stream(1)
    sent(session)
    assert not session.receive_bytes(client.syn(3))
    assert [(RST, 0, 3, struct.pack(">I", 3))] == sent(session)
    session.consumed(1, 3)
    assert [opened(5)] == session.receive_bytes(client.syn(5))


def test_pings_of_the_peer_are_echoed(session: SpdySession) -> None:
    """An odd ping is echoed, an even one would be an answer to ours and is ignored."""
    assert not session.receive_bytes(control(6, struct.pack(">I", 7)) + control(6, struct.pack(">I", 8)))
    expected = [(PING, 0, 7, b"")]
    assert expected == sent(session)


def test_flow_control_is_ignored(session: SpdySession) -> None:
    """SETTINGS and WINDOW_UPDATE change nothing."""
    settings_frame = control(4, struct.pack(">III", 1, 7, 1))
    assert not session.receive_bytes(settings_frame + control(9, struct.pack(">II", 1, 1)))
    assert not sent(session)


def test_headers_may_follow(session: SpdySession, client: Client) -> None:
    """HEADERS for an open stream are reported; for another they only update the compression state."""
    more = (struct.pack(">I", stream_id) + client.block((b"a", b"b")) for stream_id in (9, 1, 1))
    events = session.receive_bytes(control(8, next(more)))
    # the blocks were compressed in this order, so they are sent in it
    events += session.receive_bytes(control(8, next(more)))
    assert not events
    session.receive_bytes(client.syn(1))
    assert [HeadersReceived(1, (("a", "b"),)), StreamEnded(1)] == session.receive_bytes(control(8, next(more), 1))


def test_a_reply_to_nothing_is_refused(session: SpdySession, client: Client) -> None:
    """SYN_REPLY for the peer's own stream costs that stream; for an unknown one it is nothing."""
    session.receive_bytes(client.syn(1))
    sent(session)
    assert not session.receive_bytes(control(2, struct.pack(">I", 2) + client.block()))
    assert [StreamReset(1, 1)] == session.receive_bytes(control(2, struct.pack(">I", 1) + client.block()))
    assert [(RST, 0, 1, struct.pack(">I", 1))] == sent(session)


def test_goaway_waits_for_open_streams(session: SpdySession, client: Client) -> None:
    """After GOAWAY open streams continue, new ones are refused, and the end of the last one ends the connection."""
    session.receive_bytes(client.syn(1))
    assert not session.receive_bytes(GOAWAY + client.syn(3))
    session.end_stream(1)
    events = session.receive_bytes(data(1, b"x") + data(1, fin=True) + data(1, b"y"))
    expected = [DataReceived(1, b"x"), StreamEnded(1), ConnectionEnded(Ending.CLOSED, "the peer sent GOAWAY")]
    assert expected == events


def test_the_end_of_the_socket_is_reported_once(session: SpdySession, client: Client) -> None:
    """A socket that ends without GOAWAY is a lost connection, and nothing is understood after it."""
    session.receive_bytes(client.syn(1))
    assert [ConnectionEnded(Ending.LOST, "the peer closed the connection")] == session.receive_eof()
    assert not session.receive_eof()
    assert not session.receive_bytes(data(1, b"x"))
    assert not session.send_data(1, b"x")


def test_closing_resets_what_we_did_not_end(session: SpdySession, client: Client) -> None:
    """Behind everything queued come a reset for each stream whose sending half is open, and GOAWAY with the last id."""
    session.receive_bytes(b"".join(map(client.syn, (1, 3, 5))))
    sent(session)
    session.send_data(1, b"tail")
    session.end_stream(1)
    session.close()
    session.close()
    cancel = struct.pack(">I", 5)
    expected = [(0, 0, 1, b"tail"), (0, 1, 1, b""), (RST, 0, 3, cancel), (RST, 0, 5, cancel), (GOAWAY_TYPE, 0, 5, bytes(4))]
    assert expected == sent(session)
    assert session.ended
    assert not session.receive_bytes(data(1, b"x"))


@pytest.mark.parametrize("garbage", [b"\x80\x02\x00\x01\x00\x00\x00\x00", b"\xff" * 8, bytes(8), control(5, b"")])
def test_garbage_ends_the_connection(session: SpdySession, client: Client, garbage: bytes) -> None:
    """An invalid frame is a violation for us and GOAWAY for the peer; frames before it count."""
    events = session.receive_bytes(client.syn(1) + garbage + data(1, b"x"))
    assert opened(1) == events[0]
    assert isinstance(events[1], ConnectionEnded)
    assert events[1].how is Ending.VIOLATION
    assert (GOAWAY_TYPE, 0, 1, struct.pack(">I", 1)) == sent(session)[-1]
    assert session.ended


def test_upper_case_and_duplicates_end_the_connection(client: Client) -> None:
    """Bad header names are a violation, since the peers' own reader treats them so."""
    for headers in ([(b"StreamType", b"x")], [(b"a", b"x"), (b"a", b"y")]):
        frame = control(1, struct.pack(">IIH", 1, 0, 0) + Client().block(*headers))
        (event,) = SpdySession().receive_bytes(frame)
        assert isinstance(event, ConnectionEnded)
        assert event.how is Ending.VIOLATION


def test_a_crowded_stream_stops_the_reading(client: Client) -> None:
    """Unconsumed bytes count by stream and together; consuming them makes the session want more."""
    session = SpdySession(limits=Limits(stream_unread=100, unread=150))
    session.receive_bytes(client.syn(1) + client.syn(3))
    seen = []
    for stream_id, given_, consumed in ((1, 99, 0), (1, 1, 0), (1, 0, 50), (3, 99, 0), (3, 1, 0), (3, 0, 100), (1, 0, 50)):
        session.receive_bytes(data(stream_id, bytes(given_)))
        session.consumed(stream_id, consumed)
        seen.append((session.wants_read, session.unread))
    expected = [(True, 99), (False, 100), (True, 50), (True, 149), (False, 150), (True, 50), (True, 0)]
    assert expected == seen


def test_a_stalled_writer_is_stopped(session: SpdySession, client: Client) -> None:
    """Queued bytes over the bound stop the writing until they are taken; they do not stop the reading."""
    session.receive_bytes(client.syn(1))
    sent(session)
    assert session.send_data(1, bytes(256 * 1024))
    stalled = (session.wants_write, session.wants_read, session.unsent)
    session.data_to_send()
    expected = ((False, True, 256 * 1024 + 8), (True, True, 0))
    assert expected == (stalled, (session.wants_write, session.wants_read, session.unsent))


def test_a_peer_that_asks_and_never_reads_is_not_read() -> None:
    """Responses that are not sent stop the reading at their limit."""
    session = SpdySession()
    pings = control(6, struct.pack(">I", 1)) * 1000
    while session.wants_read:
        session.receive_bytes(pings)
    assert session.unsent <= Limits().owed + len(pings)


def test_sent_chunks_are_not_copied(session: SpdySession, client: Client) -> None:
    """What is queued is handed on as the same object behind its head of 8 bytes."""
    session.receive_bytes(client.syn(1))
    session.data_to_send()
    payload = bytes(32 * 1024)
    session.send_data(1, payload)
    head, body = session.data_to_send()
    assert data(1, payload)[:8] == head
    assert body is payload


def test_data_over_a_frame_is_split(session: SpdySession, client: Client) -> None:
    """A payload of 16 MiB needs two frames."""
    session.receive_bytes(client.syn(1))
    session.data_to_send()
    session.send_data(1, bytes(2**24))
    expected = [8, 2**24 - 1, 8, 1]
    assert expected == list(map(len, session.data_to_send()))


@settings(max_examples=300)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_two_sessions_understand_each_other(chance: random.Random, steps: int) -> None:
    """A client and a server session, driven at random over any split, agree on every stream's bytes, ends and resets."""
    ends = {Role.CLIENT: SpdySession(Role.CLIENT), Role.SERVER: SpdySession()}
    wire = {Role.CLIENT: b"", Role.SERVER: b""}
    written: dict[tuple[Role, int], bytes] = {}
    received: dict[tuple[Role, int], bytes] = {}
    cut: set[int] = set()
    ids: list[int] = []

    def turn(role: Role, *, everything: bool) -> None:
        other = Role.SERVER if role is Role.CLIENT else Role.CLIENT
        wire[role] += b"".join(ends[role].data_to_send())
        size = len(wire[role]) if everything else chance.randint(0, len(wire[role]))
        chunk, wire[role] = wire[role][:size], wire[role][size:]
        for event in ends[other].receive_bytes(chunk):
            match event:
                case DataReceived(stream_id, payload):
                    received[role, stream_id] = received.get((role, stream_id), b"") + payload
                    ends[other].consumed(stream_id, len(payload))
                case StreamReset(stream_id):
                    cut.add(stream_id)
                case ConnectionEnded():
                    raise AssertionError(event)

    for _ in range(steps):
        role = chance.choice(list(Role))
        verb = chance.choice(["open", "send", "send", "send", "end", "reset", "turn", "turn"])
        stream_id = chance.choice(ids or [0])
        if verb == "open":
            ids.append(ends[Role.CLIENT].open_stream((("streamtype", "data"),)))
        elif verb == "send":
            payload = chance.randbytes(chance.randint(0, 50))
            if ends[role].send_data(stream_id, payload):
                written[role, stream_id] = written.get((role, stream_id), b"") + payload
        elif verb == "end":
            ends[role].end_stream(stream_id)
        elif verb == "reset":
            ends[role].reset_stream(stream_id)
            cut.add(stream_id)
        else:
            turn(role, everything=False)
    for role in list(Role) * 3:
        turn(role, everything=True)
    for key, payload in written.items():
        got = received.get(key, b"")
        assert payload.startswith(got)
        assert got == payload or key[1] in cut
    assert {*ends[Role.CLIENT].streams} == {*ends[Role.SERVER].streams}
    expected = [0, 0]
    assert expected == [end.unread for end in ends.values()]


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_garbage_never_raises(chunks: list[bytes]) -> None:
    """Whatever comes, events come out; the last of them is the end, if it came."""
    session = SpdySession()
    events = [event for chunk in chunks for event in session.receive_bytes(chunk)]
    assert session.ended == any(isinstance(event, ConnectionEnded) for event in events)
    assert all(not isinstance(event, ConnectionEnded) for event in events[:-1])
    assert session.unread + session.buffered <= sum(map(len, chunks))
