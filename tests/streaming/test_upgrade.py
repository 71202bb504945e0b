from collections.abc import Callable

import h11
import pytest

from crishim.streaming.upgrade import (
    PORT_FORWARD,
    REMOTE_COMMAND,
    Accepted,
    Served,
    Transport,
    UpgradeRefused,
    choose,
)

Captured = Callable[[str, str], tuple[bytes, bytes]]
Headers = list[tuple[bytes, bytes]]

KEY = (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")
WEBSOCKET = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-version", b"13"), KEY]
SPDY = [(b"connection", b"Upgrade"), (b"upgrade", b"SPDY/3.1")]


def version(name: str) -> tuple[bytes, bytes]:
    return (b"x-stream-protocol-version", name.encode())


def subprotocol(name: str) -> tuple[bytes, bytes]:
    return (b"sec-websocket-protocol", name.encode())


def headers_of(head: bytes) -> Headers:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    return list(request.headers)


@pytest.mark.parametrize(
    ("name", "served", "protocol"),
    [
        ("exec-spdy", REMOTE_COMMAND, "v4.channel.k8s.io"),
        ("attach-spdy", REMOTE_COMMAND, "v4.channel.k8s.io"),
        ("portforward-spdy", PORT_FORWARD, "portforward.k8s.io"),
    ],
)
def test_captured_spdy_requests_get_the_captured_answer(captured: Captured, name: str, served: Served, protocol: str) -> None:
    """What crictl asks for is answered with the headers of containerd's 101."""
    answer = choose(headers_of(captured(name, "client")[0]), served)
    assert isinstance(answer, Accepted)
    assert (Transport.SPDY, protocol) == (answer.transport, answer.protocol)
    lines = [b": ".join(pair) for pair in answer.headers]
    assert lines == captured(name, "server")[0].split(b"\r\n")[1 : 1 + len(lines)]


@pytest.mark.parametrize(
    ("name", "served", "protocol"),
    [
        ("exec-websocket", REMOTE_COMMAND, "v5.channel.k8s.io"),
        ("exec-stdin-websocket", REMOTE_COMMAND, "v5.channel.k8s.io"),
        ("attach-websocket", REMOTE_COMMAND, "v5.channel.k8s.io"),
        ("portforward-websocket", PORT_FORWARD, "SPDY/3.1+portforward.k8s.io"),
    ],
)
def test_captured_websocket_requests_are_served(captured: Captured, name: str, served: Served, protocol: str) -> None:
    """What containerd refuses, v5 and the SPDY tunnel, is accepted here."""
    answer = choose(headers_of(captured(name, "client")[0]), served)
    assert isinstance(answer, Accepted)
    assert (Transport.WEBSOCKET, protocol) == (answer.transport, answer.protocol)
    assert (b"Sec-WebSocket-Protocol", protocol.encode()) in answer.headers


def test_the_key_is_accepted_as_the_standard_says() -> None:
    """The key and the answer of RFC 6455, section 1.3; a client that offers no subprotocol gets none."""
    answer = choose(WEBSOCKET, REMOTE_COMMAND)
    expected = Accepted(
        Transport.WEBSOCKET,
        "",
        (
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
            (b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ),
    )
    assert expected == answer


def test_words_are_found_in_lists_and_in_any_case() -> None:
    """`Connection` and `Upgrade` are lists of words without regard to case; protocol versions may have commas."""
    headers = [
        (b"connection", b"keep-alive, UPGRADE"),
        (b"upgrade", b"h2c, spdy/3.1"),
        version("v9.channel.k8s.io , v3.channel.k8s.io"),
    ]
    answer = choose(headers, REMOTE_COMMAND)
    assert isinstance(answer, Accepted)
    expected = "v3.channel.k8s.io"
    assert expected == answer.protocol


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param([], 400, id="nothing"),
        pytest.param(SPDY, 400, id="no protocol version"),
        pytest.param([*SPDY, version(" , ")], 400, id="an empty protocol version"),
        pytest.param([*SPDY, version("v9.channel.k8s.io")], 403, id="an unknown protocol version"),
        pytest.param([*SPDY, version("v5.channel.k8s.io")], 403, id="v5 alone over SPDY"),
        pytest.param([version("v9.channel.k8s.io")], 403, id="the version is looked at before the upgrade"),
        pytest.param([version("v4.channel.k8s.io")], 400, id="no upgrade"),
        pytest.param([*SPDY[:1], version("v4.channel.k8s.io")], 400, id="no Upgrade"),
        pytest.param([*SPDY[1:], version("v4.channel.k8s.io")], 400, id="no Connection"),
        pytest.param([*WEBSOCKET, subprotocol("v9.channel.k8s.io")], 403, id="an unknown subprotocol"),
        pytest.param([*WEBSOCKET[:2], KEY], 426, id="no WebSocket version"),
        pytest.param([*WEBSOCKET[:2], (b"sec-websocket-version", b"8"), KEY], 426, id="an old WebSocket version"),
        pytest.param(WEBSOCKET[:3], 400, id="no key"),
        pytest.param([*WEBSOCKET, KEY], 400, id="two keys"),
        pytest.param([*WEBSOCKET[:3], (b"sec-websocket-key", b"c2hvcnQ=")], 400, id="a short key"),
        pytest.param([*WEBSOCKET[:3], (b"sec-websocket-key", b"\xff")], 400, id="a key that is no base64"),
    ],
)
def test_other_requests_are_refused(headers: Headers, status: int) -> None:
    """What cannot be served is refused with the status that the common servers give."""
    answer = choose(headers, REMOTE_COMMAND)
    assert isinstance(answer, UpgradeRefused)
    assert status == answer.status
    assert answer.text


def test_a_refused_version_gets_the_served_ones() -> None:
    """The refusal names every version that is served in a header of its own."""
    answer = choose([*SPDY, version("v9.channel.k8s.io")], REMOTE_COMMAND)
    assert isinstance(answer, UpgradeRefused)
    names = [b"v4.channel.k8s.io", b"v3.channel.k8s.io", b"v2.channel.k8s.io", b"channel.k8s.io"]
    assert [(b"X-Accepted-Stream-Protocol-Versions", name) for name in names] == list(answer.headers)
