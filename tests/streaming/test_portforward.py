from collections.abc import Callable

import pytest

from crishim.streaming.events import ProtocolError, StreamOpened
from crishim.streaming.portforward import ForwardStream, ForwardType, Pair, Pairing, admit_forward, decode_forward
from crishim.streaming.spdy import SpdySession
from crishim.streaming.spdy_frames import RstStatus


def opened(stream_id: int, kind: str = "data", port: str = "80", request: str | None = "0") -> StreamOpened:
    pairs = (("streamtype", kind), ("port", port), ("requestid", request))
    return StreamOpened(stream_id, tuple((name, value) for name, value in pairs if value is not None))


def test_captured_pairs_are_found(captured: Callable[[str, str], tuple[bytes, bytes]]) -> None:
    """The two requests of a captured port-forward are the pairs 1 and 3, 5 and 7, to port 8080."""
    events = SpdySession(admit=admit_forward).receive_bytes(captured("portforward-spdy", "client")[1])
    pairing = Pairing()
    pairs = [pairing.add(event, 0.0) for event in events if isinstance(event, StreamOpened)]
    assert [None, Pair(8080, data_id=3, error_id=1), None, Pair(8080, data_id=7, error_id=5)] == pairs


def test_headers_become_words() -> None:
    """Type, port and request id are read from the headers."""
    assert ForwardStream(ForwardType.DATA, 65535, "7") == decode_forward(opened(3, port="65535", request="7"))


def test_streams_may_come_in_any_order() -> None:
    """Data before error makes the same pair; the port is the data stream's."""
    pairing = Pairing()
    assert pairing.add(opened(1, "data", "81"), 0.0) is None
    assert pairing.add(opened(3, "data", "82", "1"), 0.0) is None
    assert Pair(81, data_id=1, error_id=5) == pairing.add(opened(5, "error", "99"), 0.0)


def test_without_a_request_id_neighbours_pair() -> None:
    """Old clients send no request id: the data stream's id is the error stream's and 2."""
    pairing = Pairing()
    pairing.add(opened(1, "error", request=None), 0.0)
    pairing.add(opened(5, "error", request=None), 0.0)
    assert Pair(80, data_id=7, error_id=5) == pairing.add(opened(7, request=None), 0.0)
    assert Pair(80, data_id=3, error_id=1) == pairing.add(opened(3, request=None), 0.0)


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "+80", " 80", "8_0", "٨٠", "0x50", "1" * 5000])
def test_what_is_no_port_is_refused(port: str) -> None:
    """A port is a decimal number from 1 to 65535 and nothing else."""
    with pytest.raises(ProtocolError, match="not between 1 and 65535"):
        decode_forward(opened(1, port=port))
    assert admit_forward(opened(1, port=port)) is RstStatus.CANCEL


def test_other_types_are_refused() -> None:
    """Only data and error streams belong to a port-forward."""
    with pytest.raises(ProtocolError, match="neither data nor error"):
        decode_forward(opened(1, "stdin"))
    assert admit_forward(opened(1, "error")) is None


def test_a_second_stream_of_one_type_is_refused() -> None:
    """A second data stream for a request is an error that leaves the first one waiting."""
    pairing = Pairing()
    pairing.add(opened(1), 0.0)
    with pytest.raises(ProtocolError, match="two data streams"):
        pairing.add(opened(3), 0.0)
    assert Pair(80, data_id=1, error_id=5) == pairing.add(opened(5, "error"), 0.0)


def test_half_pairs_expire() -> None:
    """A stream waits 30 seconds for its other; one that was reset waits no longer."""
    pairing = Pairing()
    pairing.add(opened(1, request="a"), 0.0)
    pairing.add(opened(3, request="b"), 5.0)
    pairing.add(opened(5, request="c"), 5.0)
    pairing.forget(5)
    expected = [[], [1], [3], []]
    assert expected == [pairing.expired(now) for now in (29.9, 30.0, 100.0, 100.0)]
