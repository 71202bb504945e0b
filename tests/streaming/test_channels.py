import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.model.process import TerminalSize
from crishim.streaming.channels import (
    CHANNELS,
    SPDY_PROTOCOLS,
    V1,
    V2,
    V3,
    V4,
    V5,
    WEBSOCKET_PROTOCOLS,
    ChannelProtocol,
    ResizeDecoder,
    StreamType,
    encode_exit,
    encode_failure,
    expected_streams,
    negotiate,
)
from crishim.streaming.events import ProtocolError

OFFERED_BY_CRICTL = [f"v{number}.channel.k8s.io" for number in (5, 4, 3, 2)] + ["channel.k8s.io"]


def test_a_spdy_client_that_prefers_v5_gets_v4() -> None:
    """SPDY serves v4 to v1, so the list that crictl sends ends in v4."""
    assert V4.name == negotiate(OFFERED_BY_CRICTL, SPDY_PROTOCOLS)


def test_the_order_of_the_client_decides() -> None:
    """The first name of the client's that is served wins, not ours."""
    assert V2.name == negotiate(["nonsense", "v2.channel.k8s.io", "v4.channel.k8s.io"], SPDY_PROTOCOLS)


def test_nothing_in_common_is_nothing() -> None:
    """Without a common name there is no protocol; names are compared exactly."""
    assert negotiate(["V4.channel.k8s.io", ""], SPDY_PROTOCOLS) is None


def test_websocket_serves_v5_and_the_nameless() -> None:
    """WebSocket has v5, v4 and v1, the two in base64, and no name at all for v1."""
    names = {
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "",
    }
    assert names == set(WEBSOCKET_PROTOCOLS)
    assert {name for name in names if "base64" in name} == {
        name for name, protocol in WEBSOCKET_PROTOCOLS.items() if protocol.base64
    }


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (V1, (False, False, False)),
        (V2, (False, False, False)),
        (V3, (True, False, False)),
        (V4, (True, True, False)),
        (V5, (True, True, True)),
    ],
)
def test_what_each_version_added(protocol: ChannelProtocol, expected: tuple[bool, ...]) -> None:
    """Resize came with v3, the JSON status with v4, the close signal with v5."""
    assert expected == (protocol.has_resize, protocol.has_json_status, protocol.has_close_signal)


def test_channels_have_their_numbers() -> None:
    """The channels of stdin, stdout, stderr, error and resize are 0 to 4."""
    expected = ["stdin", "stdout", "stderr", "error", "resize"]
    assert expected == sorted(CHANNELS, key=lambda stream: CHANNELS[stream])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stdout": True, "stderr": True}, "error stdout stderr"),
        ({"stdin": True, "stdout": True, "stderr": True}, "error stdin stdout stderr"),
        ({"stdin": True, "stdout": True, "stderr": True, "tty": True}, "error stdin stdout resize"),
        ({"stdin": True, "stdout": True, "tty": True, "resize": False}, "error stdin stdout"),
    ],
)
def test_clients_open_what_the_request_says(fields: dict[str, bool], expected: str) -> None:
    """Error is always there, stderr not with a terminal, resize only with one and from v3 on."""
    flags = dict.fromkeys(("stdin", "stdout", "stderr", "tty"), False) | {"resize": True} | fields
    assert {StreamType(name) for name in expected.split()} == expected_streams(**flags)


def test_success_is_a_json_status_from_v4_on() -> None:
    """v4 reports success explicitly, older versions by an empty stream."""
    expected = [b'{"status":"Success"}', b""]
    assert expected == [encode_exit(V4, 0), encode_exit(V3, 0)]


def test_an_exit_code_is_a_cause() -> None:
    """The exit code stands in decimal as the message of the cause ExitCode."""
    status = json.loads(encode_exit(V5, 137))
    expected = {"causes": [{"reason": "ExitCode", "message": "137"}]}
    assert ("Failure", "NonZeroExitCode", expected) == (status["status"], status["reason"], status["details"])


@pytest.mark.parametrize("code", [-1, 256, 2**40])
def test_codes_that_clients_refuse_are_sent_as_255(code: int) -> None:
    """Clients read eight bits; any other code is sent as 255, and never as success."""
    assert encode_exit(V4, 255) == encode_exit(V4, code)


def test_old_versions_send_a_failure_in_plain_text() -> None:
    """Before v4 the error stream holds a text for people."""
    expected = b"command terminated with non-zero exit code: 7"
    assert expected == encode_exit(V1, 7)
    expected = b"Internal error occurred: error executing command in container: \xe2\x98\xb9"
    assert expected == encode_failure(V3, "error executing command in container: \u2639")


def test_a_failure_is_an_internal_error_with_code_500() -> None:
    """What could not be run is an InternalError for v4."""
    status = json.loads(encode_failure(V4, 'no "sh" \udcff'))
    expected = {
        "status": "Failure",
        "reason": "InternalError",
        "code": 500,
        "message": 'Internal error occurred: no "sh" \udcff',
        "details": {"causes": [{"message": 'no "sh" \udcff'}]},
    }
    assert expected == status


sizes = st.builds(TerminalSize, st.integers(1, 65535), st.integers(1, 65535))


@given(st.lists(st.tuples(sizes, st.sampled_from(["", "\n", " \t\r\n"])), max_size=5), st.lists(st.integers(0)))
def test_sizes_are_read_in_any_split(values: list[tuple[TerminalSize, str]], cuts: list[int]) -> None:
    """Objects come out one by one, wherever the bytes are cut and whatever white space is between."""
    text = "".join(f'{{"Width":{size.width},"Height":{size.height}}}{space}' for size, space in values).encode()
    borders = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    decoder = ResizeDecoder()
    decoded = [size for start, end in itertools.pairwise(borders) for size in decoder.feed(text[start:end])]
    assert [size for size, _ in values] == decoded


def test_sizes_before_a_broken_one_count() -> None:
    """Complete sizes are returned, and the error is raised by the next call."""
    decoder = ResizeDecoder()
    assert [TerminalSize(1, 2), TerminalSize(3, 4)] == decoder.feed(b'{"Width":1,"Height":2}{"Width":3,"Height":4}nonsense')
    with pytest.raises(ProtocolError):
        decoder.feed(b"")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"width": 1, "HEIGHT": 2}', [TerminalSize(1, 2)]),
        (b'{"Width":1,"Height":2,"X":{"}":["\\"]"]}}', [TerminalSize(1, 2)]),
        (b'{"Width":0,"Height":2}', []),
        (b'{"Width":null,"Height":2}', []),
        (b"{}{}", []),
    ],
)
def test_sizes_are_read_as_go_reads_them(value: bytes, expected: list[TerminalSize]) -> None:
    """Names without regard to case, unknown names passed over, sizes with a zero left out."""
    assert expected == ResizeDecoder().feed(value)


@pytest.mark.parametrize(
    "value",
    [
        *(b"x", b"1", b'"{', b"[]", b"}", b"{]", b"{\xff}", b'{"a":NaN,}', b'{"a":"\\"}"}x'),
        *(b'{"Width":80', b'{"Width":-1}', b'{"Width":65536}', b'{"Width":1.5}', b'{"Width":true}', b'{"Width":"80"}'),
        b'{"a":' * 9,
    ],
)
def test_other_json_and_garbage_is_refused(value: bytes) -> None:
    """What is no object of two 16-bit numbers is a protocol error, at the latest when the bound is reached."""
    with pytest.raises(ProtocolError):
        ResizeDecoder().feed(value + b'"' * 512)


def test_at_most_the_limit_is_buffered() -> None:
    """An object that does not end is refused at 512 bytes."""
    decoder = ResizeDecoder()
    assert not decoder.feed(b'{"' + b"a" * 510)
    with pytest.raises(ProtocolError, match="more than 512 bytes"):
        decoder.feed(b"a")


@given(st.binary(max_size=80))
def test_garbage_is_read_or_refused(data: bytes) -> None:
    """Whatever comes, sizes come out or a protocol error."""
    with contextlib.suppress(ProtocolError):
        ResizeDecoder().feed(b"{" + data)
