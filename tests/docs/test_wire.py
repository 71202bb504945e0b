"""`make wire`: what a newer contract has."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from crishim._proto import cri_pb2, generate
from docs.tools import wire


def ours() -> FileDescriptorProto:
    return FileDescriptorProto.FromString(cri_pb2.DESCRIPTOR.serialized_pb)


def test_our_own_is_the_same() -> None:
    """A file does not differ from itself."""
    assert [] == wire.differences(ours(), ours())


def test_what_is_new_and_what_is_gone() -> None:
    """A new field, value and call are named with their numbers, and so is what ours alone has."""
    theirs = ours()
    version = next(message for message in theirs.message_type if message.name == "VersionRequest")
    version.field[0].name = "release"
    theirs.enum_type[0].value.add(name="NEW", number=99)
    call = theirs.service[0].method.add(name="Newest")
    call.input_type, call.output_type = ".x.VersionRequest", ".x.VersionResponse"
    assert [
        f"+ enum {theirs.enum_type[0].name} NEW 99 - -",
        "+ field VersionRequest release 1 string -",
        "- field VersionRequest version 1 string -",
        f"+ rpc {theirs.service[0].name} Newest - VersionRequest -> VersionResponse -",
    ] == sorted(wire.differences(theirs, ours()), key=lambda line: line[2:])


def test_the_command(tmp_path: Path) -> None:
    """A file with gogoproto's options is read, compared with that of ours which it is like, and differs by its exit code."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    source = (generate.FOLDER / "cri.proto").read_text()
    gogo = 'import "github.com/gogo/protobuf/gogoproto/gogo.proto";\noption (gogoproto.goproto_stringer_all) = false;\n'
    theirs = tmp_path / "api.proto"
    theirs.write_text(source.replace("\nservice", f"\n{gogo}service", 1))
    command = [sys.executable, "-m", "docs.tools.wire", str(theirs)]
    same = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "", True) == (same.returncode, same.stderr, same.stdout.endswith(" 0 differ\n"))
    theirs.write_text(source + '\nmessage Newest {\n  string name = 1 [(gogoproto.customname) = "N"];\n}\n')
    differs = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (1, "+ field Newest name 1 string -") == (differs.returncode, differs.stdout.splitlines()[1])
