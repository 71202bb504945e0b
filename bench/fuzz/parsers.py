"""Throw broken input at the parsers of what peers send, and check their promises.

    python bench/fuzz/parsers.py [--inputs 1000000] [--seed 1] [TARGET ...]

Every input is a valid one, damaged at random. A target raises `AssertionError` when a rule is violated, and anything else but
the documented `ProtocolError` counts as broken too. Prints, for each target, inputs, how many of them were read without an
error, the maximum of buffered bytes, and inputs per second; stops at the first violation with the input in hexadecimal.
"""

import argparse
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable

import h11

from crishim.nri.multiplex import Decoder as NriDecoder
from crishim.nri.multiplex import FrameTooLong
from crishim.nri.multiplex import encode as encode_nri
from crishim.streaming.channels import V4_BASE64, V5, ResizeDecoder, StreamType
from crishim.streaming.events import ConnectionEnded, DataReceived, ProtocolError, StreamCodec
from crishim.streaming.flow import Limits
from crishim.streaming.spdy import SpdySession
from crishim.streaming.spdy_frames import (
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
)
from crishim.streaming.spdy_headers import DICTIONARY, HeaderInflater, encode_headers
from crishim.streaming.upgrade import PORT_FORWARD, REMOTE_COMMAND, Accepted, UpgradeRefused, choose
from crishim.streaming.websocket import TunnelSession, remote_command_session
from crishim.ttrpc.connection import Answered, Called, ClientConnection, Request, ServerConnection
from crishim.ttrpc.frames import encode as encode_ttrpc

HEADERS = (("streamtype", "stdin"), ("port", "8080"), ("requestid", "0"))
LIMITS = Limits(control_frame=1024, header_block=1024, streams=8)
HELD_BY_A_CONTROL_FRAME = LIMITS.control_frame + 8


class Outcome:
    """The effect of one input: whether all of it was read, and the maximum of bytes buffered for it."""

    def __init__(self) -> None:
        self.clean = True
        self.buffered = 0

    def buffer(self, count: int) -> None:
        """Record the number of buffered bytes."""
        self.buffered = max(self.buffered, count)


def damaged(chance: random.Random, whole: bytes) -> bytes:
    """The bytes with up to four wounds, and every other time with none."""
    wounded = bytearray(whole)
    for _ in range(max(0, chance.randrange(-3, 5))):
        at = chance.randrange(len(wounded) + 1)
        match chance.randrange(6):
            case 0:
                wounded[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 1:
                del wounded[at : at + chance.randrange(1, 9)]
            case 2:
                wounded[at : at + 4] = chance.choice((b"\x00" * 4, b"\xff" * 4, b"\x00\x00\x00\x01", b"\x80\x00\x00\x00"))
            case 3:
                wounded[at:at] = wounded[at : at + 40]
            case 4 if at < len(wounded):
                wounded[at] ^= 1 << chance.randrange(8)
            case _:
                wounded[at : at + 1] = chance.randbytes(1)
    return bytes(wounded)


def pieces(chance: random.Random, whole: bytes) -> list[bytes]:
    """The bytes in one to three parts."""
    cuts = sorted(chance.randrange(len(whole) + 1) for _ in range(chance.randrange(3)))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def spdy_conversation(chance: random.Random) -> bytes:
    """Frames of a client that does a little of everything."""
    writer = FrameWriter()
    kinds: list[Callable[[], Frame]] = [
        lambda: SynStream(chance.choice((1, 3, 5, 7, 2)), HEADERS, chance.random() < 0.1, chance.random() < 0.1),
        lambda: SynReply(chance.randrange(1, 5)),
        lambda: Data(chance.choice((1, 3, 5)), chance.randbytes(chance.randrange(40)), chance.random() < 0.3),
        lambda: RstStream(chance.choice((1, 3, 9)), 5),
        lambda: Settings(((0, 7, 1),)),
        lambda: Ping(chance.randrange(1, 9)),
        lambda: GoAway(0),
        lambda: MoreHeaders(1, HEADERS),
        lambda: WindowUpdate(1, 1000),
    ]
    weights = (6, 1, 6, 2, 1, 2, 1, 1, 1)
    return b"".join(writer.encode(make()) for make in chance.choices(kinds, weights, k=chance.randrange(1, 7)))


def frames(chance: random.Random, whole: bytes) -> Outcome:
    """The frame reader gives frames or a protocol error, and holds no more than one control frame and the chunk."""
    reader, outcome = FrameReader(LIMITS), Outcome()
    try:
        for chunk in pieces(chance, whole):
            reader.feed(chunk)
            while reader.next_frame() is not None:
                pass
            outcome.buffer(reader.buffered)
            assert reader.buffered < HELD_BY_A_CONTROL_FRAME
    except ProtocolError:
        outcome.clean = False
    return outcome


def header_block(chance: random.Random) -> bytes:
    """A header block: inflated and damaged before it is compressed, or only after, by the caller."""
    block = encode_headers(HEADERS[: chance.randrange(4)])
    block = damaged(chance, block) if chance.random() < 0.5 else block
    if chance.random() < 0.01:
        block = struct.pack(">II", 1, 1) + b"x" + struct.pack(">I", 10**6) + bytes(10**6)
    compressor = zlib.compressobj(zdict=DICTIONARY)
    return compressor.compress(block) + compressor.flush(chance.choice((zlib.Z_SYNC_FLUSH,) * 9 + (zlib.Z_FINISH,)))


def headers(_chance: random.Random, whole: bytes) -> Outcome:
    """A header block gives headers within the bound or a protocol error."""
    outcome = Outcome()
    inflater = HeaderInflater(LIMITS.header_block)
    try:
        size = sum(len(name) + len(value) for name, value in inflater.decode(whole))
        outcome.buffer(size)
        assert size <= LIMITS.header_block
    except ProtocolError:
        outcome.clean = False
    return outcome


def drive(chance: random.Random, session: StreamCodec, whole: bytes) -> Outcome:
    """Feed a session, consume some of what it gives, answer on every stream; check what every session promises."""
    outcome = Outcome()
    ended = False
    session.start()
    for chunk in pieces(chance, whole):
        for event in session.receive_bytes(chunk):
            assert not ended, "an event after the end"
            ended = isinstance(event, ConnectionEnded)
            if isinstance(event, DataReceived):
                assert event.data
                session.consumed(event.stream_id, chance.randrange(len(event.data) + 1))
        outcome.buffer(session.unread)
        assert ended == session.ended
        assert 0 <= session.unread <= len(whole)
        for stream_id in (0, 1, 3, 4):
            assert not (session.send_data(stream_id, b"x") and ended)
        session.reset_stream(chance.randrange(8))
        session.end_stream(chance.randrange(8))
    outcome.clean = not ended
    session.close()
    assert session.ended
    assert not session.receive_bytes(whole)
    assert not session.receive_eof()
    assert session.data_to_send() or ended
    assert not session.unsent
    return outcome


def spdy(chance: random.Random, whole: bytes) -> Outcome:
    """A SPDY session never raises, and what it says is itself SPDY."""
    session = SpdySession(limits=LIMITS)
    said: list[bytes] = []
    for chunk in pieces(chance, whole):
        session.receive_bytes(chunk)
        said += session.data_to_send()
        assert session.buffered < HELD_BY_A_CONTROL_FRAME
    reader = FrameReader()
    reader.feed(b"".join(said))
    while reader.next_frame() is not None:
        pass
    assert not reader.buffered
    return drive(chance, SpdySession(limits=LIMITS), whole)


def websocket_conversation(chance: random.Random) -> bytes:
    """Frames of a WebSocket client, with channels, close signals, base64, fragments, pings; rarely a Close."""
    whole = b""
    for _ in range(chance.randrange(1, 6)):
        body = chance.randbytes(chance.randrange(30))
        choices = (
            b"\x00" + body,
            b"\x04" + body,
            b"\xff\x00",
            body,
            b"0SGVsbG8=",
            b"0SGVsbG8gdGhlcmU=",
            spdy_conversation(chance),
        )
        whole += websocket_frame(chance, chance.choice(choices))
    return whole


def websocket_frame(chance: random.Random, payload: bytes) -> bytes:
    """A frame of mostly valid kinds; the mask is zeros, so that damage hits what is meant."""
    opcode, payload = chance.choice(
        ((2, payload),) * 7 + ((1, payload),) * 3 + ((9, payload[:125]), (10, b""), (8, b"\x03\xe8"), (0, payload))
    )
    fin = opcode >= 8 or chance.random() < 0.8
    size = bytes((0x80 | len(payload),)) if len(payload) < 126 else struct.pack(">BH", 0xFE, len(payload))
    return bytes((fin << 7 | opcode,)) + size + bytes(4) + payload


STREAMS = (StreamType.ERROR, StreamType.STDIN, StreamType.STDOUT, StreamType.RESIZE)


def websocket(chance: random.Random, whole: bytes) -> Outcome:
    """A session of channels, in binary or base64, or a tunnel, never raises."""
    session: StreamCodec
    match chance.randrange(3):
        case 0:
            session = remote_command_session(V5, STREAMS, limits=LIMITS)
        case 1:
            session = remote_command_session(V4_BASE64, STREAMS, limits=LIMITS)
        case _:
            session = TunnelSession(limits=LIMITS)
    return drive(chance, session, whole)


def resizes(chance: random.Random) -> bytes:
    """A resize stream."""
    size = b'{"Width":%d,"Height":%d}' % (chance.randrange(70000), chance.randrange(300))
    return chance.choice((size, size + b"\n" + size, b'{"a":[{"b":"\\""}],"width":1,"HEIGHT":2}'))


def resize(chance: random.Random, whole: bytes) -> Outcome:
    """The resize decoder gives sizes or a protocol error."""
    outcome, decoder = Outcome(), ResizeDecoder()
    try:
        for chunk in pieces(chance, whole):
            assert all(1 <= side <= 0xFFFF for size in decoder.feed(chunk) for side in (size.width, size.height))
    except ProtocolError:
        outcome.clean = False
    return outcome


SPDY_HEAD = b"POST /exec/abcdefgh HTTP/1.1|Host: h|Connection: Upgrade|Upgrade: SPDY/3.1|X-Stream-Protocol-Version: "
WEBSOCKET_HEAD = (
    b"GET /attach/abcdefgh HTTP/1.1|Host: h|Connection: keep-alive, upgrade|Upgrade: websocket|Sec-WebSocket-Version: 13|"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==|Sec-WebSocket-Protocol: "
)
HTTP_HEADS = (
    SPDY_HEAD + b"v4.channel.k8s.io",
    SPDY_HEAD + b"portforward.k8s.io",
    WEBSOCKET_HEAD + b"v5.channel.k8s.io",
    WEBSOCKET_HEAD + b"v4.channel.k8s.io, SPDY/3.1+portforward.k8s.io",
)


def http_heads(chance: random.Random) -> bytes:
    """The head of an upgrade request, SPDY or WebSocket."""
    lines = chance.choice(HTTP_HEADS).split(b"|")
    return b"\r\n".join((*lines, b"", b""))


def http_head(_chance: random.Random, whole: bytes) -> Outcome:
    """What h11 takes for a request is accepted or refused, and the answer is one that h11 can write."""
    outcome, connection = Outcome(), h11.Connection(h11.SERVER)
    try:
        connection.receive_data(whole)
        request = connection.next_event()
    except h11.RemoteProtocolError:
        outcome.clean = False
        return outcome
    if isinstance(request, h11.Request):
        for served in (REMOTE_COMMAND, PORT_FORWARD):
            match choose(request.headers, served):
                case Accepted(_, _, answer):
                    h11.InformationalResponse(status_code=101, headers=list(answer))
                case UpgradeRefused(status, text, answer):
                    outcome.clean = False
                    h11.Response(status_code=status, headers=list(answer))
                    assert text
    return outcome


def ttrpc_conversation(chance: random.Random) -> bytes:
    """Frames of both ends of a ttrpc connection."""
    client = ClientConnection()
    for number in range(chance.randrange(1, 5)):
        more = chance.random() < 0.3
        stream = client.call(Request(service="s", method="m", payload=chance.randbytes(number * 9)), more=more)
        if more:
            client.send_data(stream, chance.randbytes(5))
            client.end_data(stream)
    extra = b"".join(
        encode_ttrpc(chance.randrange(6), chance.randrange(5), chance.randrange(8), chance.randbytes(chance.randrange(30)))
        for _ in range(chance.randrange(4))
    )
    return client.to_send() + extra


def ttrpc_server(chance: random.Random, whole: bytes) -> Outcome:
    """No input ends a server's connection: it becomes events and refusals that a client can read."""
    server, client, outcome = ServerConnection(), ClientConnection(), Outcome()
    for chunk in pieces(chance, whole):
        for event in server.receive(chunk):
            if isinstance(event, Called):
                server.answer(event.stream, b"x")
    for _ in range(4):
        client.call(Request(service="s", method="m"))
    for answered in client.receive(server.to_send()):
        outcome.clean = outcome.clean and isinstance(answered, Answered) and not answered.status.code
    return outcome


def ttrpc_client(chance: random.Random, whole: bytes) -> Outcome:
    """No input ends a client's connection: each call ends at most once."""
    client, outcome = ClientConnection(), Outcome()
    streams = {client.call(Request(service="s", method="m")) for _ in range(3)}
    for chunk in pieces(chance, whole):
        for event in client.receive(chunk):
            if isinstance(event, Answered):
                assert event.stream in streams
                streams.discard(event.stream)
                outcome.clean = outcome.clean and not event.status.code
    return outcome


def nri_conversation(chance: random.Random) -> bytes:
    """Frames of NRI's multiplexer."""
    return b"".join(encode_nri(chance.randrange(4), ttrpc_conversation(chance)) for _ in range(chance.randrange(1, 4)))


def nri_frames(chance: random.Random, whole: bytes) -> Outcome:
    """The multiplexer gives frames, or one error for a frame that no message has."""
    decoder, outcome = NriDecoder(), Outcome()
    try:
        for chunk in pieces(chance, whole):
            frames = decoder.feed(chunk)
            assert sum(len(content) for _, content in frames) <= len(whole)
    except FrameTooLong:
        outcome.clean = False
    return outcome


TARGETS: dict[str, tuple[Callable[[random.Random], bytes], Callable[[random.Random, bytes], Outcome]]] = {
    "frames": (spdy_conversation, frames),
    "headers": (header_block, headers),
    "spdy": (spdy_conversation, spdy),
    "websocket": (websocket_conversation, websocket),
    "resize": (resizes, resize),
    "http_head": (http_heads, http_head),
    "ttrpc_server": (ttrpc_conversation, ttrpc_server),
    "ttrpc_client": (ttrpc_conversation, ttrpc_client),
    "nri_frames": (nri_conversation, nri_frames),
}


def run(target: str, inputs: int, seed: int) -> str:
    """Run one target and return its line of results. Raises `AssertionError` with the input that violates a rule."""
    make, check = TARGETS[target]
    clean = buffered = 0
    began = time.perf_counter()
    for number in range(inputs):
        chance = random.Random(f"{target} {seed} {number}")
        whole = damaged(chance, make(chance))
        try:
            outcome = check(chance, whole)
        except Exception as error:
            raise AssertionError(f"{target}, seed {seed}, input {number}: {whole.hex()}") from error
        clean += outcome.clean
        buffered = max(buffered, outcome.buffered)
    seconds = time.perf_counter() - began
    return f"{target:12} {inputs:9} inputs {clean:9} clean {buffered:6} bytes buffered at most {inputs / seconds:9.0f} inputs/s"


def main() -> None:
    """Run the targets that are named, or all."""
    parser = argparse.ArgumentParser(description="Fuzz the parsers.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each target (default: 1000000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help=f"some of {', '.join(TARGETS)}; default: all")
    arguments = parser.parse_args()
    for target in arguments.targets or TARGETS:
        print(run(target, arguments.inputs, arguments.seed))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
