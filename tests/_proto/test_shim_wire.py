import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from crishim._proto import (
    cgroups_v1_pb2,
    cgroups_v2_pb2,
    shim_bootstrap_pb2,
    shim_events_pb2,
    shim_options_pb2,
    shim_runc_pb2,
    shim_sandbox_pb2,
    shim_task_pb2,
    shim_types_pb2,
    ttrpc_pb2,
)

TABLE = Path(__file__).parents[1] / "golden" / "shimv2" / "wire.tsv"

FILES: dict[str, ModuleType] = {
    "types/mount.proto": shim_types_pb2,
    "types/task/task.proto": shim_types_pb2,
    "types/metrics.proto": shim_types_pb2,
    "types/platform.proto": shim_types_pb2,
    "types/event.proto": shim_types_pb2,
    "runtime/task/v2/shim.proto": shim_task_pb2,
    "runtime/task/v3/shim.proto": shim_task_pb2,
    "runtime/sandbox/v1/sandbox.proto": shim_sandbox_pb2,
    "runtime/bootstrap/v1/bootstrap.proto": shim_bootstrap_pb2,
    "events/task.proto": shim_events_pb2,
    "events/sandbox.proto": shim_events_pb2,
    "services/ttrpc/events/v1/events.proto": shim_events_pb2,
    "types/runc/options/oci.proto": shim_runc_pb2,
    "types/runtimeoptions/v1/api.proto": shim_options_pb2,
    "ttrpc_request.proto": ttrpc_pb2,
    "cgroup1_metrics.proto": cgroups_v1_pb2,
    "cgroup2_metrics.proto": cgroups_v2_pb2,
    "types/fieldpath.proto": shim_types_pb2,  # nothing but an option of other files
}
"""Which of our files holds what stands in which of theirs."""

ELSEWHERE = {"ActiveMount", "ActivationInfo"}
"""Of containerd's mount manager; no shim sees them."""

EXTRA = {"RuntimeInfo", "RuntimeVersion", "RuntimeRequest", "Status"}
"""Of `-info` and of google.rpc: in none of the table's files."""

# kind, owner, name, number, type, label
Row = tuple[str, ...]


def table() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        row = tuple(line.split("\t"))
        if row[0] == "file":
            rows = found[row[2]] = []
        elif not line.startswith("#") and row[1] not in ELSEWHERE:
            rows.append(row)
    return found


def compiled(module: ModuleType) -> list[Row]:
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return [
        *(
            ("rpc", service.name, method.name, "-", f"{short(method.input_type)} -> {short(method.output_type)}", "-")
            for service in file.service
            for method in service.method
        ),
        *(("enum", enum.name, value.name, str(value.number), "-", "-") for enum in file.enum_type for value in enum.value),
        *(row for message in file.message_type for row in message_rows(message)),
    ]


def message_rows(message: DescriptorProto) -> Iterator[Row]:
    if not message.field:
        yield ("message", message.name, "-", "-", "-", "empty")
    maps = {nested.name for nested in message.nested_type if nested.options.map_entry}
    for field in message.field:
        kind = short(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        is_map = kind in maps
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED and not is_map
        labels = ("repeated" * repeated, "optional" * field.proto3_optional, "deprecated" * field.options.deprecated)
        label = " ".join(filter(None, labels)) or "-"
        yield ("field", message.name, field.name, str(field.number), "map<string,string>" if is_map else kind, label)
    for reserved in message.reserved_range:
        yield ("reserved", message.name, "-", f"{reserved.start}-{reserved.end - 1}", "-", "-")


def short(name: str) -> str:
    return name.rpartition(".")[2]


def shortened(rows: Iterable[Row]) -> list[Row]:
    """Without the packages, which are theirs there and ours here."""
    return sorted((*row[:4], " -> ".join(short(part) for part in row[4].split(" -> ")), row[5]) for row in rows)


@pytest.mark.parametrize("name", FILES)
def test_everything_in_the_table_is_compiled(name: str) -> None:
    """Every message, field, number, type, label and rpc of the contract is in our file."""
    assert set() == set(shortened(table()[name])) - set(shortened(compiled(FILES[name])))


@pytest.mark.parametrize("module", list({module.__name__: module for module in FILES.values()}.values()))
def test_nothing_more_is_compiled(module: ModuleType) -> None:
    """Nothing stands in our files that the contract does not have."""
    theirs = [row for name, rows in table().items() if FILES[name] is module for row in rows]
    ours = [row for row in compiled(module) if row[1] not in EXTRA or row[0] == "enum"]
    assert set(shortened(theirs)) == set(shortened(ours))


def test_every_file_of_the_table_is_compared() -> None:
    """No file of the table is left out."""
    assert set(FILES) == set(table())


def test_the_info_of_a_shim() -> None:
    """`-info`'s answer, which the table lacks, is read as it was recorded."""
    recorded = (TABLE.parent / "containerd-2.4.jsonl").read_text(encoding="utf-8").splitlines()[0]
    info = shim_types_pb2.RuntimeInfo.FromString(bytes.fromhex(json.loads(recorded)["command"]["stdout_hex"]))
    assert ("io.containerd.runc.v2", "2.4.0-beta") == (info.name, info.version.version.split("+")[0][:10])
    assert "features" in info.features.type_url
    assert json.loads(info.features.value)["ociVersionMin"]
