import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from crishim._proto import generate

SOURCES = sorted(generate.FOLDER.glob("*.proto"))


def without_json_names(messages: Iterable[DescriptorProto]) -> None:
    """A descriptor set spells out the default JSON names, and Python code leaves them out."""
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        without_json_names(message.nested_type)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_code_is_of_its_source(source: Path, tmp_path: Path) -> None:
    """The descriptor inside the checked-in code is what protoc makes of the .proto file."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    target = tmp_path / "descriptors"
    name = str(source.relative_to(generate.IMPORT_ROOT))
    command = [f"--proto_path={generate.IMPORT_ROOT}", f"--descriptor_set_out={target}", name]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *command], check=True)
    (expected,) = FileDescriptorSet.FromString(target.read_bytes()).file
    without_json_names(expected.message_type)
    module = import_module(f"crishim._proto.{source.stem}_pb2")
    actual = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    assert expected == actual


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_code_loads_on_the_oldest_protobuf(source: Path) -> None:
    """The code states the first protobuf 6 as its own version, and so loads on 6.x and 7.x."""
    code = source.with_name(f"{source.stem}_pb2.py").read_text(encoding="utf-8")
    assert "# Protobuf Python Version: 6.30.0" in code.splitlines()


def test_the_package_allows_what_the_code_loads_on() -> None:
    """Protobuf is required from the version of the code on, and up to the last major version that promises to load it."""
    project = tomllib.loads((generate.IMPORT_ROOT.parent / "pyproject.toml").read_text())["project"]
    assert ["protobuf>=6.30,<8"] == [each for each in project["dependencies"] if each.startswith("protobuf")]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_source_has_stubs(source: Path) -> None:
    """Stubs lie beside the code of every .proto file."""
    assert source.with_name(f"{source.stem}_pb2.pyi").is_file()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_package_is_ours(source: Path) -> None:
    """Every .proto file is in a package below crishim.wire."""
    module = import_module(f"crishim._proto.{source.stem}_pb2")
    expected = ["crishim", "wire"]
    actual = module.DESCRIPTOR.package.split(".")[:2]
    assert expected == actual
