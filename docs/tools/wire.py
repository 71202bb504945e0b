"""Compares a contract's own .proto file with ours: `make wire PROTO=api.proto`.

Prints what the given file has and ours lacks, and the reverse, one line for each field, value and call, and exits with 1 if
there is any difference. Ours is the file with the most messages of the same names. gogoproto's options, which older files of
Kubernetes and containerd have, are left out before protoc (of grpcio-tools) reads the file.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from crishim._proto import generate

FOLDER = Path(generate.__file__).parent

Row = tuple[str, ...]
"""Kind, owner, name, number, type, label."""


def rows(file: FileDescriptorProto) -> set[Row]:
    """Every call, field and enum value of a file, without packages."""
    return {
        *(
            ("rpc", service.name, method.name, "-", f"{_short(method.input_type)} -> {_short(method.output_type)}", "-")
            for service in file.service
            for method in service.method
        ),
        *(row for enum in file.enum_type for row in _enum_rows(enum, "")),
        *(row for message in file.message_type for row in _message_rows(message, "")),
    }


def differences(theirs: FileDescriptorProto, ours: FileDescriptorProto) -> list[str]:
    """A line for each row that only one of two files has: `+` for what ours lacks, `-` for what only ours has."""
    new, old = rows(theirs), rows(ours)
    lines = [("+", row) for row in new - old] + [("-", row) for row in old - new]
    return [f"{sign} {' '.join(row)}" for sign, row in sorted(lines, key=lambda line: (line[1], line[0]))]


def parse(source: Path) -> FileDescriptorProto:
    """A .proto file, parsed by protoc. Raises `SystemExit` with protoc's message for an invalid one."""
    with tempfile.TemporaryDirectory() as folder:
        copy, target = Path(folder, "contract.proto"), Path(folder, "set")
        copy.write_text(_without_gogoproto(source.read_text(encoding="utf-8")), encoding="utf-8")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={folder}", f"--descriptor_set_out={target}"]
        done = subprocess.run([*command, copy.name], check=False, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        (file,) = FileDescriptorSet.FromString(target.read_bytes()).file
    return file


def nearest(file: FileDescriptorProto) -> tuple[str, FileDescriptorProto]:
    """The name and the contents of our file with the most messages of the same names."""
    names = {message.name for message in file.message_type}
    candidates = []
    for source in sorted(FOLDER.glob("*.proto")):
        ours = FileDescriptorProto.FromString(import_module(f"crishim._proto.{source.stem}_pb2").DESCRIPTOR.serialized_pb)
        candidates.append((len(names & {message.name for message in ours.message_type}), source.name, ours))
    _, name, ours = max(candidates, key=lambda candidate: candidate[0])
    return name, ours


def main() -> int:
    """Compare the file that the command line names; returns the exit code."""
    theirs = parse(Path(sys.argv[1]))
    name, ours = nearest(theirs)
    found = differences(theirs, ours)
    counts = f"{len(rows(theirs))} and {len(rows(ours))} lines, {len(found)} differ"
    sys.stdout.write("".join(f"{line}\n" for line in (f"{sys.argv[1]} and {name}: {counts}", *found)))
    return 1 if found else 0


def _without_gogoproto(text: str) -> str:
    text = re.sub(r"(?m)^\s*(import|option).*gogo.*$", "", text)
    return re.sub(r"\s*\[\s*\(gogoproto\.[^]]*\]", "", text)


def _message_rows(message: DescriptorProto, scope: str) -> Iterator[Row]:
    name = scope + message.name
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    for field in message.field:
        kind, label = _type(field), "repeated" if field.label == FieldDescriptorProto.LABEL_REPEATED else "-"
        if kind in maps:
            key, value = maps[kind].field
            kind, label = f"map<{_type(key)},{_type(value)}>", "-"
        yield ("field", name, field.name, str(field.number), kind, label)
    for enum in message.enum_type:
        yield from _enum_rows(enum, f"{name}.")
    for nested in message.nested_type:
        if nested.name not in maps:
            yield from _message_rows(nested, f"{name}.")


def _enum_rows(enum: EnumDescriptorProto, scope: str) -> Iterator[Row]:
    for value in enum.value:
        yield ("enum", scope + enum.name, value.name, str(value.number), "-", "-")


def _type(field: FieldDescriptorProto) -> str:
    return _short(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _short(name: str) -> str:
    return name.rpartition(".")[2]


if __name__ == "__main__":
    sys.exit(main())
