import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim._proto import ttrpc_pb2 as pb
from crishim.errors import Code
from crishim.ttrpc.connection import (
    Answered,
    Called,
    ClientConnection,
    DataArrived,
    DataEnded,
    Request,
    ServerConnection,
    Status,
)
from crishim.ttrpc.frames import HEADER, MAX_DATA, Flag, Frame, FrameDecoder, Kind, encode

GOLDEN = Path(__file__).parents[1] / "golden" / "shimv2"
CALL = Request(service="s", method="M", payload=b"asked", timeout=5, metadata=(("k", "v"), ("k", "w")))


def sent(data: bytes) -> list[Frame]:
    return [frame for frame in FrameDecoder().feed(data) if isinstance(frame, Frame)]


def refusals(server: ServerConnection) -> list[tuple[int, int]]:
    return [(frame.stream, pb.Response.FromString(frame.data).status.code) for frame in sent(server.to_send())]


def pair() -> tuple[ClientConnection, ServerConnection]:
    return ClientConnection(), ServerConnection()


def test_a_call_and_its_answer() -> None:
    """A request arrives unchanged, and its response ends the call."""
    client, server = pair()
    stream = client.call(CALL)
    assert [Called(1, CALL, more=False)] == server.receive(client.to_send())
    server.answer(stream, b"told")
    assert [Answered(1, Status(), b"told")] == client.receive(server.to_send())


def test_streams_have_odd_numbers_in_order() -> None:
    """Calls are numbered 1, 3, 5; their answers may come in any order."""
    client, server = pair()
    numbers = [client.call(CALL) for _ in range(3)]
    assert [1, 3, 5] == numbers
    server.receive(client.to_send())
    for stream in (5, 1, 3):
        server.answer(stream, str(stream).encode())
    events = client.receive(server.to_send())
    assert [(5, b"5"), (1, b"1"), (3, b"3")] == [(event.stream, event.payload) for event in events]


def test_a_refusal_has_code_and_message() -> None:
    """A status that is not OK travels with its message."""
    client, server = pair()
    stream = client.call(CALL)
    server.receive(client.to_send())
    server.refuse(stream, Status(5, "nobody"))
    assert [Answered(1, Status(5, "nobody"))] == client.receive(server.to_send())


def test_a_success_carries_no_status() -> None:
    """A response that succeeds has a payload and no status, as Go's peers send it; one without content is no bytes at all."""
    _, server = pair()
    server.receive(encode(1, Kind.REQUEST, 0, b""))
    server.answer(1, b"")
    assert encode(1, Kind.RESPONSE) == server.to_send()


def test_a_forgotten_call_is_not_answered() -> None:
    """What comes for a call that was given up, or for none, is ignored."""
    client, server = pair()
    stream = client.call(CALL)
    server.receive(client.to_send())
    client.forget(stream)
    server.answer(stream, b"late")
    assert [] == client.receive(server.to_send() + encode(99, Kind.RESPONSE) + encode(98, Kind.DATA))


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_unknown_kinds_are_ignored(kind: int) -> None:
    """Frames of an unknown kind are ignored at both ends."""
    client, server = pair()
    stream = client.call(CALL)
    server.receive(client.to_send())
    assert [] == client.receive(encode(stream, kind, 0, b"?"))
    assert [] == server.receive(encode(stream, kind, 0, b"?"))
    assert b"" == server.to_send()


def test_bad_numbers_are_refused() -> None:
    """Even numbers, and numbers that do not rise, are INVALID_ARGUMENT on their stream; the connection goes on."""
    _, server = pair()
    empty = pb.Request(service="s", method="M").SerializeToString()
    events = server.receive(b"".join(encode(number, Kind.REQUEST, 0, empty) for number in (2, 5, 5, 3, 7)))
    assert [5, 7] == [event.stream for event in events]
    assert [(2, Code.INVALID_ARGUMENT), (5, Code.INVALID_ARGUMENT), (3, Code.INVALID_ARGUMENT)] == refusals(server)


def test_a_request_that_cannot_be_read_is_refused() -> None:
    """Data that is no request is INVALID_ARGUMENT; a response that is none is INTERNAL."""
    client, server = pair()
    assert [] == server.receive(encode(1, Kind.REQUEST, 0, b"\xff\xff\xff"))
    assert [(1, Code.INVALID_ARGUMENT)] == refusals(server)
    stream = client.call(CALL)
    (event,) = client.receive(encode(stream, Kind.RESPONSE, 0, b"\xff\xff\xff"))
    assert isinstance(event, Answered)
    assert Code.INTERNAL == event.status.code


def test_too_long_messages_are_refused() -> None:
    """What is over 4 MiB is never sent; what comes over 4 MiB, or would be answered so, is RESOURCE_EXHAUSTED."""
    client, server = pair()
    with pytest.raises(ValueError, match="bytes"):
        client.call(Request(service="s", method="M", payload=bytes(MAX_DATA)))
    stream = client.call(CALL)
    server.receive(client.to_send())
    server.answer(stream, bytes(MAX_DATA))
    (event,) = client.receive(server.to_send())
    assert isinstance(event, Answered)
    assert Code.RESOURCE_EXHAUSTED == event.status.code
    server.receive(HEADER.pack(MAX_DATA + 1, 11, Kind.REQUEST, 0) + bytes(MAX_DATA + 1))
    assert [(11, Code.RESOURCE_EXHAUSTED)] == refusals(server)
    stream = client.call(CALL)
    (event,) = client.receive(HEADER.pack(MAX_DATA + 1, stream, Kind.RESPONSE, 0))
    assert isinstance(event, Answered)
    assert (stream, Code.RESOURCE_EXHAUSTED) == (event.stream, event.status.code)


def test_data_both_ways() -> None:
    """Data frames go both ways, an empty message is one, and a server's last one ends the call with OK."""
    client, server = pair()
    stream = client.call(CALL, more=True)
    client.send_data(stream, b"")
    client.send_data(stream, b"two")
    client.end_data(stream)
    called, *rest = server.receive(client.to_send())
    assert Called(1, CALL, more=True) == called
    assert [DataArrived(1, b""), DataArrived(1, b"two"), DataEnded(1)] == rest
    server.send_data(stream, b"back")
    server.end_data(stream)
    assert [DataArrived(1, b"back"), Answered(1, Status())] == client.receive(server.to_send())


def test_data_for_an_ended_stream_is_refused() -> None:
    """Data on a stream that is not open is INVALID_ARGUMENT; on a call without more data it is passed over."""
    _, server = pair()
    assert [] == server.receive(encode(9, Kind.DATA, 0, b"x"))
    assert [(9, Code.INVALID_ARGUMENT)] == refusals(server)
    server.receive(encode(11, Kind.REQUEST, 0, b""))
    assert [] == server.receive(encode(11, Kind.DATA, 0, b"x"))
    assert [] == refusals(server)


def test_an_answer_with_its_last_data() -> None:
    """A frame that holds both a message and the end gives both."""
    client, _ = pair()
    stream = client.call(CALL, more=True)
    events = client.receive(encode(stream, Kind.DATA, Flag.REMOTE_CLOSED, b"last"))
    assert [DataArrived(stream, b"last"), Answered(stream, Status())] == events


def test_nothing_is_answered_twice() -> None:
    """The second answer to a call sends nothing."""
    _, server = pair()
    server.receive(encode(1, Kind.REQUEST, 0, b""))
    server.answer(1, b"x")
    server.to_send()
    server.answer(1, b"y")
    server.refuse(1, Status(2))
    server.end_data(1)
    server.send_data(1, b"z")
    assert b"" == server.to_send()


def test_numbers_are_used_up() -> None:
    """A connection has two thousand million calls, and no more."""
    client, _ = pair()
    client._next = 2**32 - 1
    client.call(CALL)
    with pytest.raises(OverflowError):
        client.call(CALL)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_raise(pieces: list[bytes]) -> None:
    """Whatever comes, neither end raises."""
    client, server = pair()
    stream = client.call(CALL)
    for piece in pieces:
        client.receive(piece)
        server.receive(piece)
        server.receive(encode(stream, Kind.REQUEST, 0, piece))
        client.receive(encode(stream, Kind.RESPONSE, 0, piece))
    assert isinstance(server.to_send(), bytes)


def frames(name: str) -> Iterator[dict[str, Any]]:
    for line in (GOLDEN / name).read_text().splitlines():
        entry = json.loads(line)
        if "conn" in entry and "hex" in entry:
            yield entry


@pytest.mark.parametrize("name", ["containerd-1.6.jsonl", "containerd-2.4.jsonl"])
def test_recorded_calls(name: str) -> None:
    """Every frame that was recorded between containerd and its shim is a call or an answer here, and is written again alike."""
    servers: dict[str, ServerConnection] = {}
    clients: dict[str, ClientConnection] = {}
    answers = 0
    for frame in frames(name):
        connection = frame["conn"]
        server = servers.setdefault(connection, ServerConnection())
        client = clients.setdefault(connection, ClientConnection())
        data = encode(frame["stream"], frame["type"], frame["flags"], bytes.fromhex(frame["hex"]))
        if frame["type"] == Kind.REQUEST:
            (called,) = server.receive(data)
            assert isinstance(called, Called)
            expected = (frame["service"], frame["method"], tuple(map(tuple, frame["metadata"])))
            assert expected == (called.request.service, called.request.method, called.request.metadata)
            assert called.stream == client.call(called.request)
            assert data == client.to_send()
        else:
            (answered,) = client.receive(data)
            assert isinstance(answered, Answered)
            if answered.status.code:
                server.refuse(answered.stream, answered.status)
            else:
                server.answer(answered.stream, answered.payload)
            assert data == server.to_send()
            answers += 1
    assert answers > 80
