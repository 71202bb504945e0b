import pytest

from crishim.cri import pb
from crishim.cri.convert import common
from crishim.model.process import Signal
from crishim.model.sandbox import PodSandboxState
from crishim.model.values import FrozenDict
from tests.cri.refusals import refused


def test_an_empty_reply_is_no_byte() -> None:
    """Every reply without fields is the empty string of bytes."""
    expected = b""
    assert expected == common.encode_empty(None)
    assert expected == pb.StopContainerResponse().SerializeToString()


def test_an_empty_request_has_no_arguments() -> None:
    """A request without fields gives the verb nothing."""
    expected = ()
    assert expected == common.decode_nothing(pb.ImageFsInfoRequest())


def test_maps_are_frozen() -> None:
    """A map of the wire becomes an immutable one with the same pairs."""
    expected = FrozenDict({"a": "1", "b": ""})
    assert expected == common.decode_map(pb.PodSandbox(labels={"a": "1", "b": ""}).labels)


@pytest.mark.parametrize("raw", [b"", b"plain", "é".encode(), b"\xff\xfe", b"half \xc3"])
def test_bytes_survive_as_text(raw: bytes) -> None:
    """Any bytes become text and come back as the same bytes."""
    assert raw == common.encode_bytes(common.decode_bytes(raw))


@pytest.mark.parametrize(("text", "expected"), [("", ""), ("plain", "plain"), ("é", "é"), ("bad \udcff", "bad ?")])
def test_texts_for_people_fit_the_wire(text: str, expected: str) -> None:
    """A lone surrogate becomes a question mark; nothing else changes."""
    assert expected == common.encode_text(text)
    assert {expected: expected} == common.encode_texts({text: text})


def test_absent_numbers_stay_absent() -> None:
    """None is no message, and zero is one."""
    assert common.encode_int64(None) is None
    assert common.encode_uint64(None) is None
    assert pb.Int64Value() == common.encode_int64(0)
    assert pb.UInt64Value(value=2**64 - 1) == common.encode_uint64(2**64 - 1)


def test_unknown_enumeration_numbers_are_refused() -> None:
    """A number that CRI does not name is refused with the field's name."""
    assert common.decode_enum(PodSandboxState, 1, "state") is PodSandboxState.NOTREADY
    with refused("filter.state.state"):
        common.decode_enum(PodSandboxState, 2, "filter.state.state")


@pytest.mark.parametrize("signal", Signal)
def test_signals_have_the_wires_names(signal: Signal) -> None:
    """Each signal of ours has the number of CRI's signal of the same name."""
    expected = pb.Signal.Value(f"SIGNAL_{signal.name}")
    assert expected == common.encode_signal(signal)
    assert signal is common.decode_signal(expected, "stop_signal")


def test_the_wire_has_no_signal_more() -> None:
    """We know every signal that CRI names."""
    expected = sorted(map(int, pb.Signal.values()))
    assert expected == sorted(map(int, Signal))


def test_checks_name_the_field() -> None:
    """Each check gives the value back, or refuses it by the name of its field."""
    assert common.not_empty("x", "f") == "x"
    assert common.absolute("/x", "f") == "/x"
    assert common.between(3, 3, 3, "f") == 3
    assert common.at_least(0, 0, "f") == 0
    assert common.ids([0, common.MAX_ID], "f") == (0, common.MAX_ID)
    with refused("f"):
        common.not_empty("", "f")
    with refused("f"):
        common.absolute("x/y", "f")
    with refused("f"):
        common.between(4, 1, 3, "f")
    with refused("f"):
        common.at_least(-1, 0, "f")
    with refused("f[1]"):
        common.ids([0, -1], "f")
