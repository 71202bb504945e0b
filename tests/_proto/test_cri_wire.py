from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from crishim._proto import cri_pb2 as pb

TABLE = Path(__file__).parents[1] / "golden" / "cri-v1-wire.tsv"
PACKAGE = "crishim.wire.cri.v1"

# As a line of the table: kind, owner, name, number, type, label.
Row = tuple[str, ...]


def compiled() -> FileDescriptorProto:
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    return file


def table_rows() -> list[Row]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines if not line.startswith("#")]


def compiled_rows() -> list[Row]:
    file = compiled()
    return [
        *(row for service in file.service for row in service_rows(service)),
        *(row for enum in file.enum_type for row in enum_rows("", enum)),
        *(row for message in file.message_type for row in message_rows("", message)),
    ]


def service_rows(service: ServiceDescriptorProto) -> Iterator[Row]:
    for method in service.method:
        request = "stream " * method.client_streaming + local(method.input_type)
        response = "stream " * method.server_streaming + local(method.output_type)
        yield ("rpc", service.name, method.name, "-", f"{request} -> {response}", "-")


def enum_rows(scope: str, enum: EnumDescriptorProto) -> Iterator[Row]:
    for value in enum.value:
        yield ("enum", scope + enum.name, value.name, str(value.number), "-", "-")


def message_rows(scope: str, message: DescriptorProto) -> Iterator[Row]:
    name = scope + message.name
    maps = {f"{name}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    if not message.field:
        yield ("message", name, "-", "-", "-", "empty")
    for field in message.field:
        kind, label = field_type(field), field_label(field)
        if entry := maps.get(kind):
            key, value = entry.field
            kind, label = f"map<{field_type(key)},{field_type(value)}>", label.removeprefix("repeated").strip() or "-"
        yield ("field", name, field.name, str(field.number), kind, label)
    for enum in message.enum_type:
        yield from enum_rows(f"{name}.", enum)
    for nested in message.nested_type:
        if not nested.options.map_entry:
            yield from message_rows(f"{name}.", nested)


def field_type(field: FieldDescriptorProto) -> str:
    return local(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def field_label(field: FieldDescriptorProto) -> str:
    labels = [
        "repeated" * (field.label == FieldDescriptorProto.LABEL_REPEATED),
        "oneof" * field.HasField("oneof_index"),
        "deprecated" * field.options.deprecated,
    ]
    return " ".join(filter(None, labels)) or "-"


def local(full_name: str) -> str:
    return full_name.removeprefix(f".{PACKAGE}.")


@pytest.mark.parametrize("kind", ["rpc", "enum", "field", "message"])
def test_contract(kind: str) -> None:
    """What is compiled and what the contract's table lists are the same, with nothing missing and nothing extra."""
    expected = sorted(row for row in table_rows() if row[0] == kind)
    actual = sorted(row for row in compiled_rows() if row[0] == kind)
    assert expected == actual


def test_table_holds_no_other_kind() -> None:
    """Every line of the table but the one that names the file is compared."""
    expected = [("file", "runtime.v1", "api.proto", "-", "proto3", "-")]
    actual = [row for row in table_rows() if row[0] not in {"rpc", "enum", "field", "message"}]
    assert expected == actual


def test_names_in_the_shared_pool() -> None:
    """The file is proto3, and its package and its name are ours alone."""
    file = compiled()
    expected = (PACKAGE, "crishim/_proto/cri.proto", "proto3")
    actual = (file.package, file.name, file.syntax)
    assert expected == actual


def test_rpc_count() -> None:
    """The two services have 43 rpcs, and seven of them answer with a stream."""
    methods = [method for service in compiled().service for method in service.method]
    expected = (43, 7)
    actual = (len(methods), sum(method.server_streaming for method in methods))
    assert expected == actual


def test_foreign_stubs_load_beside_ours() -> None:
    """Stubs of package runtime.v1 load in the same process, and bytes pass from them to ours and back."""
    text = text_format.MessageToString(compiled())
    text = text.replace(PACKAGE, "runtime.v1").replace(pb.DESCRIPTOR.name, "api.proto")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(text_format.Parse(text, FileDescriptorProto()).SerializeToString())
    foreign = message_factory.GetMessageClass(pool.FindMessageTypeByName("runtime.v1.CreateContainerRequest"))
    ours = pb.CreateContainerRequest(
        pod_sandbox_id="s1",
        config=pb.ContainerConfig(
            envs=[pb.KeyValue(key="A", value=b"\xff")],
            labels={"app": "web"},
            linux=pb.LinuxContainerConfig(
                security_context=pb.LinuxContainerSecurityContext(
                    run_as_user=pb.Int64Value(value=0),
                    seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="/p.json"),
                ),
            ),
            stop_signal=pb.SIGNAL_SIGRTMAX,
        ),
    )

    theirs = foreign.FromString(ours.SerializeToString())

    assert text_format.MessageToString(ours) == text_format.MessageToString(theirs)
    assert ours == pb.CreateContainerRequest.FromString(theirs.SerializeToString())
