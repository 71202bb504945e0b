"""NRI's messages, compared in both directions with a table of the contract."""

from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from crishim._proto import nri_pb2

TABLE = Path(__file__).parents[1] / "golden" / "nri-wire.tsv"

Row = tuple[str, ...]


def short(name: str) -> str:
    return name.rpartition(".")[2]


def type_of(field: FieldDescriptorProto) -> str:
    return short(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def message_rows(message: DescriptorProto) -> list[Row]:
    rows: list[Row] = []
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    for field in message.field:
        kind, label = type_of(field), "repeated" if field.label == FieldDescriptorProto.LABEL_REPEATED else "-"
        if kind in maps:
            key, value = maps[kind].field
            kind, label = f"map<{type_of(key)},{type_of(value)}>", "-"
        rows.append(("field", message.name, field.name, str(field.number), kind, label))
    for enum in message.enum_type:
        rows.extend(("enum", f"{message.name}.{enum.name}", value.name, str(value.number), "-", "-") for value in enum.value)
    return rows


def compiled() -> set[Row]:
    file = FileDescriptorProto()
    nri_pb2.DESCRIPTOR.CopyToProto(file)
    rows = [row for message in file.message_type for row in message_rows(message)]
    for enum in file.enum_type:
        rows.extend(("enum", enum.name, value.name, str(value.number), "-", "-") for value in enum.value)
    for service in file.service:
        for method in service.method:
            types = f"{short(method.input_type)} -> {short(method.output_type)}"
            rows.append(("rpc", service.name, method.name, "-", types, "-"))
    return set(rows)


def test_the_table_and_our_file_are_the_same() -> None:
    """Every message, field, number, type, label and rpc of the contract is in our file, and nothing more."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    assert {tuple(line.split("\t")) for line in lines if not line.startswith("#")} == compiled()
