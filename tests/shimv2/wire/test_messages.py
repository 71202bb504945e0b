import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from crishim._proto import shim_bootstrap_pb2 as bootstrap_pb
from crishim._proto import shim_runc_pb2 as runc_pb
from crishim.errors import (
    AlreadyExists,
    CrishimError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
    Unknown,
)
from crishim.model.process import Exit
from crishim.shimv2.wire.messages import (
    Bootstrap,
    bootstrap_params,
    exit_of,
    named,
    parse_bootstrap,
    runc_options,
    runtime_options,
    runtime_spec,
)
from crishim.ttrpc.connection import Status
from crishim.ttrpc.status import TtrpcError
from tests.shimv2.golden import commands


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (b"unix:///run/containerd/s/9acc", Bootstrap("unix:///run/containerd/s/9acc", 2)),
        (b"unix:///run/containerd/s/9acc\n", Bootstrap("unix:///run/containerd/s/9acc", 2)),
        (b'{"version":3,"address":"unix:///s","protocol":"ttrpc"}', Bootstrap("unix:///s", 3)),
        (b'{"version":2,"address":"unix:///s"}\n', Bootstrap("unix:///s", 2)),
        (
            bootstrap_pb.BootstrapResult(version=3, address="unix:///s", protocol="ttrpc").SerializeToString(),
            Bootstrap("unix:///s", 3),
        ),
    ],
)
def test_the_answers_to_start(printed: bytes, expected: Bootstrap) -> None:
    """A bare address is version 2; JSON and protobuf state their version."""
    assert expected == parse_bootstrap(printed)


@pytest.mark.parametrize(
    "printed",
    [
        b"",
        b"level=warning msg=oh dear\nunix:///s",
        b"{",
        b'{"version":4,"address":"unix:///s","protocol":"ttrpc"}',
        b'{"version":3,"address":"unix:///s","protocol":"grpc"}',
        b'{"version":3}',
        b"\x08\xff",
        b"\x08\x03",
        bytes(range(128, 200)),
    ],
)
def test_no_answers_to_start(printed: bytes) -> None:
    """A response that is no address, or names an unsupported protocol, is refused with its text."""
    with pytest.raises(Unknown):
        parse_bootstrap(printed)


@pytest.mark.parametrize(("name", "version"), [("containerd-1.6.jsonl", 2), ("containerd-2.4.jsonl", 3)])
def test_recorded_answers(name: str, version: int) -> None:
    """What containerd's own shims of two ages answered is understood."""
    starts = [command for command in commands(name) if command["argv"][-1] == "start"]
    answers = {parse_bootstrap(bytes.fromhex(command["stdout_hex"])) for command in starts}
    assert {(version, True)} == {(bootstrap.version, bootstrap.address.startswith("unix:///run/")) for bootstrap in answers}


def test_recorded_parameters() -> None:
    """A recorded request of containerd 2.4 to its shim has the fields that we write, with the same meaning."""
    (start,) = [command for command in commands("containerd-2.4.jsonl") if command["argv"][-1] == "start"]
    theirs = bootstrap_pb.BootstrapParams.FromString(bytes.fromhex(start["stdin_hex"]))
    ours = bootstrap_pb.BootstrapParams.FromString(
        bootstrap_params(theirs.instance_id, theirs.namespace, theirs.containerd_grpc_address, theirs.containerd_ttrpc_address)
    )
    expected = bootstrap_pb.BootstrapParams()
    expected.CopyFrom(theirs)
    for field in ("log_level", "containerd_version", "containerd_binary", "extensions", "socket_dir"):
        expected.ClearField(field)
    assert start["argv"][start["argv"].index("-id") + 1] == theirs.instance_id
    assert expected == ours


def test_structures_of_the_runtime_specification() -> None:
    """A Process travels as JSON under containerd's name for it; bytes that are no UTF-8 stay what they are."""
    packed = runtime_spec("Process", {"args": ["echo", "\udcff"]})
    assert "types.containerd.io/opencontainers/runtime-spec/1/Process" == packed.type_url
    assert b'{"args": ["echo", "\\udcff"]}' == packed.value
    assert ["echo", "\udcff"] == json.loads(packed.value)["args"]


def test_options() -> None:
    """Options have the bare names that both old and new shims read."""
    packed = runc_options("crun", "/run/x", systemd_cgroup=True)
    options = runc_pb.Options.FromString(packed.value)
    assert ("containerd.runc.v1.Options", "crun", "/run/x", True) == (
        packed.type_url,
        options.binary_name,
        options.root,
        options.systemd_cgroup,
    )
    assert "runtimeoptions.v1.Options" == runtime_options("/etc/kata.toml").type_url


def test_times() -> None:
    """The year 1, and no time at all, are no time; others are nanoseconds since the epoch."""
    assert Exit(code=3) == exit_of(3, Timestamp(seconds=-62135596800))
    assert Exit(code=3) == exit_of(3, Timestamp())
    assert Exit(code=137, at=1_500_000_000_000_000_007) == exit_of(137, Timestamp(seconds=1_500_000_000, nanos=7))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (5, NotFound),
        (6, AlreadyExists),
        (9, FailedPrecondition),
        (3, InvalidArgument),
        (12, Unimplemented),
        (4, DeadlineExceeded),
        (2, Unknown),
        (99, Unknown),
    ],
)
def test_refusals_are_named(code: int, expected: type[CrishimError]) -> None:
    """A shim's error becomes the error of the same condition, with its text unless ours has all of it."""
    error = named(TtrpcError(Status(code, "so it is")), "container", "c1")
    assert type(error) is expected
    assert "c1" in error.message or "so it is" in error.message
