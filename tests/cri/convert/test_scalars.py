import pytest

from crishim.cri import pb
from crishim.cri.convert import scalars
from crishim.model.frozen import FrozenDict
from crishim.model.process import Signal
from crishim.model.sandbox import PodSandboxState
from tests.cri.refusals import refused


def test_an_empty_reply_is_no_byte() -> None:
    """Every reply without fields is the empty string of bytes."""
    expected = b""
    assert expected == scalars.encode_empty(None)
    assert expected == pb.StopContainerResponse().SerializeToString()


def test_an_empty_request_has_no_arguments() -> None:
    """A request without fields gives the verb nothing."""
    expected = ()
    assert expected == scalars.decode_nothing(pb.ImageFsInfoRequest())


def test_maps_are_frozen() -> None:
    """A map of the wire becomes an immutable one with the same pairs."""
    expected = FrozenDict({"a": "1", "b": ""})
    assert expected == scalars.decode_map(pb.PodSandbox(labels={"a": "1", "b": ""}).labels)


@pytest.mark.parametrize("raw", [b"", b"plain", "é".encode(), b"\xff\xfe", b"half \xc3"])
def test_bytes_survive_as_text(raw: bytes) -> None:
    """Any bytes become text and come back as the same bytes."""
    assert raw == scalars.encode_bytes(scalars.decode_bytes(raw))


@pytest.mark.parametrize(("text", "expected"), [("", ""), ("plain", "plain"), ("é", "é"), ("bad \udcff", "bad ?")])
def test_texts_for_people_fit_the_wire(text: str, expected: str) -> None:
    """A lone surrogate becomes a question mark; nothing else changes."""
    assert expected == scalars.encode_text(text)
    assert {expected: expected} == scalars.encode_texts({text: text})


def test_absent_numbers_stay_absent() -> None:
    """None is no message, and zero is one."""
    assert scalars.encode_int64(None) is None
    assert scalars.encode_uint64(None) is None
    assert pb.Int64Value() == scalars.encode_int64(0)
    assert pb.UInt64Value(value=2**64 - 1) == scalars.encode_uint64(2**64 - 1)


def test_unknown_enumeration_numbers_are_refused() -> None:
    """A number that CRI does not name is refused with the field's name."""
    assert scalars.decode_enum(PodSandboxState, 1, "state") is PodSandboxState.NOTREADY
    with refused("filter.state.state"):
        scalars.decode_enum(PodSandboxState, 2, "filter.state.state")


@pytest.mark.parametrize("signal", Signal)
def test_signals_have_the_wires_names(signal: Signal) -> None:
    """Each signal of ours has the number of CRI's signal of the same name."""
    expected = pb.Signal.Value(f"SIGNAL_{signal.name}")
    assert expected == scalars.encode_signal(signal)
    assert signal is scalars.decode_signal(expected, "stop_signal")


def test_the_wire_has_no_signal_more() -> None:
    """We know every signal that CRI names."""
    expected = sorted(map(int, pb.Signal.values()))
    assert expected == sorted(map(int, Signal))


def test_checks_name_the_field() -> None:
    """Each check gives the value back, or refuses it by the name of its field."""
    assert scalars.not_empty("x", "f") == "x"
    assert scalars.absolute("/x", "f") == "/x"
    assert scalars.between(3, 3, 3, "f") == 3
    assert scalars.at_least(0, 0, "f") == 0
    assert scalars.ids([0, scalars.MAX_ID], "f") == (0, scalars.MAX_ID)
    with refused("f"):
        scalars.not_empty("", "f")
    with refused("f"):
        scalars.absolute("x/y", "f")
    with refused("f"):
        scalars.between(4, 1, 3, "f")
    with refused("f"):
        scalars.at_least(-1, 0, "f")
    with refused("f[1]"):
        scalars.ids([0, -1], "f")
