"""The options of a handler of containerd's, in both forms."""

from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from crishim._proto import shim_options_pb2 as options_pb
from crishim._proto import shim_runc_pb2 as runc_pb
from crishim.errors import InvalidArgument
from crishim.shimv2.server.options import RUNC, RUNTIME, asked, read_options, self_contained, start_options
from tests.shimv2.golden import commands


def runtime_options(**fields: str | bytes) -> tuple[str, bytes]:
    return RUNTIME, options_pb.Options(**fields).SerializeToString()  # type: ignore[arg-type]  # as each test knows


def test_both_forms_have_the_same_keys() -> None:
    """What runc's own shim gets as a message any other gets as TOML; keys without a value are left out."""
    message = runc_pb.Options(binary_name="crun", root="/own", systemd_cgroup=True)
    empty = b'NoPivotRoot = false\nCriuPath = ""\nIoUid = 0\n'
    table = b'TypeUrl = "x"\nBinaryName = "crun"\nRoot = "/own"\nSystemdCgroup = true\n' + empty
    expected = {"BinaryName": "crun", "Root": "/own", "SystemdCgroup": True}
    assert expected == read_options((RUNC, message.SerializeToString()))
    assert expected == read_options(runtime_options(config_body=table))
    assert {} == read_options(("", b""))


def test_a_file(tmp_path: Path) -> None:
    """A path names a file with the table; once it was read its text goes with the options, whatever becomes of the file."""
    file = tmp_path / "options.toml"
    file.write_text("SystemdCgroup = true")
    options = runtime_options(config_path=str(file))
    assert {"SystemdCgroup": True} == read_options(options)
    contained = self_contained(options)
    file.unlink()
    assert {"SystemdCgroup": True} == read_options(contained)


def test_a_body_goes_before_a_file() -> None:
    """Where both are there the body counts, and the file is not read."""
    options = runtime_options(config_path="/nowhere", config_body=b"Root = '/a'")
    assert {"Root": "/a"} == read_options(self_contained(options))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (("windows.v1.Options", b""), "options"),
        ((RUNC, b"\x3a\x7f"), "options"),
        ((RUNTIME, b"\x3a\x7f"), "options"),
        (runtime_options(config_body=b"= 1"), "options.config_body"),
        (runtime_options(config_body=b"\xff"), "options.config_body"),
        (runtime_options(config_path="/nowhere"), "options.config_path"),
    ],
)
def test_what_cannot_be_read(options: tuple[str, bytes], field: str) -> None:
    """Another type, an invalid message, invalid TOML and a missing file are refused by the field."""
    with pytest.raises(InvalidArgument) as refused:
        read_options(options)
    assert field == refused.value.field


def test_the_options_of_a_start() -> None:
    """Containerd 2.4 sends them as an extension of the BootstrapParams, an earlier one as they are; there may be none."""
    (recorded,) = (line for line in commands("containerd-2.4.jsonl") if line["argv"][-1] == "start")
    stdin = bytes.fromhex(recorded["stdin_hex"])
    params = asked(stdin)
    assert params is not None
    assert "2.4.0-beta+unknown" == params.containerd_version
    assert (RUNC, {"BinaryName": "/usr/local/sbin/runc"}) == (start_options(stdin)[0], read_options(start_options(stdin)))
    plain = Any(type_url=RUNC, value=runc_pb.Options(root="/a").SerializeToString()).SerializeToString()
    assert (None, {"Root": "/a"}) == (asked(plain), read_options(start_options(plain)))
    for nothing in (b"", b"\xff", b"\n\x03abc"):
        assert (None, ("", b"")) == (asked(nothing), start_options(nothing))
