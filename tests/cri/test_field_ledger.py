"""Every field of CRI is decided about: a converter reads it, a converter writes it, or a table says why not."""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import Message

from crishim.cri import pb
from crishim.cri.convert import container, image, sandbox, stats
from crishim.cri.ignored import IGNORED

CONVERTERS: Final = Path(container.__file__).parent

# A message and one of its fields, by their names.
Field: TypeAlias = tuple[str, str]

_TEXT_FORM = "deprecated: read where the message that replaced it is absent, never written"

NEVER_WRITTEN: Final[Mapping[Field, str]] = {
    ("LinuxContainerSecurityContext", "apparmor_profile"): _TEXT_FORM,
    ("LinuxContainerSecurityContext", "seccomp_profile_path"): _TEXT_FORM,
    ("LinuxSandboxSecurityContext", "seccomp_profile_path"): _TEXT_FORM,
}
"""What is read, though the encoder of the same message leaves it out."""

JOINED: Final[Mapping[Field, Callable[..., Message]]] = {
    ("ContainerStatusResponse", "status"): container.encode_container_status,
    ("ListContainerStatsResponse", "stats"): stats.encode_container_item,
    ("ListContainersResponse", "containers"): container.encode_item,
    ("ListImagesResponse", "images"): image.encode_image,
    ("ListPodSandboxMetricsResponse", "pod_metrics"): stats.encode_metrics_item,
    ("ListPodSandboxResponse", "items"): sandbox.encode_item,
    ("ListPodSandboxStatsResponse", "stats"): stats.encode_sandbox_item,
    ("PodSandboxStatusResponse", "containers_statuses"): container.encode_container_status,
    ("PodSandboxStatusResponse", "status"): sandbox.encode_sandbox_status,
    ("StreamContainerStatsResponse", "container_stats"): stats.encode_container_item,
    ("StreamContainersResponse", "containers"): container.encode_item,
    ("StreamImagesResponse", "images"): image.encode_image,
    ("StreamPodSandboxMetricsResponse", "pod_sandbox_metrics"): stats.encode_metrics_item,
    ("StreamPodSandboxStatsResponse", "pod_sandbox_stats"): stats.encode_sandbox_item,
    ("StreamPodSandboxesResponse", "pod_sandboxes"): sandbox.encode_item,
}
"""Lists and statuses that are joined out of encoded messages; the encoder makes one."""


@attrs.frozen
class Ledger:
    """What the converters' source reads from messages, and writes into them."""

    read: frozenset[Field]
    written: frozenset[Field]


class Reader(ast.NodeVisitor):
    """Follows messages through one function: from annotated parameters over fields, assignments and loops."""

    def __init__(self, messages: Mapping[str, Descriptor]) -> None:
        self.messages = messages
        self.names: dict[str, list[Descriptor]] = {}
        self.read: set[Field] = set()
        self.written: set[Field] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.names = {}
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            assert argument.annotation is not None
            self.names[argument.arg] = list(self.annotated(argument.annotation))
        for statement in node.body:
            self.visit(statement)

    def annotated(self, annotation: ast.expr) -> Iterator[Descriptor]:
        """The messages that an annotation names: `pb.A`, `pb.A | pb.B`, `Iterable[pb.A]`."""
        for node in ast.walk(annotation):
            if (name := self.message_name(node)) is not None:
                yield self.messages[name]

    def message_name(self, node: ast.AST) -> str | None:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pb":
            return node.attr if node.attr in self.messages else None
        return None

    def types(self, node: ast.expr) -> list[Descriptor]:
        """The messages that an expression may be, or be many of."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, [])
        if isinstance(node, ast.IfExp):
            return [*self.types(node.body), *self.types(node.orelse)]
        if isinstance(node, ast.Attribute):
            fields = [owner.fields_by_name.get(node.attr) for owner in self.types(node.value)]
            return [field.message_type for field in fields if field is not None and field.message_type is not None]
        return []

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.read |= {(owner.name, node.attr) for owner in self.types(node.value) if node.attr in owner.fields_by_name}
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if (name := self.message_name(node.func)) is not None:
            self.written |= {(name, keyword.arg) for keyword in node.keywords if keyword.arg is not None}
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self.names[node.targets[0].id] = self.types(node.value)
        self.generic_visit(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        for loop in node.generators:
            source, target = loop.iter, loop.target
            if isinstance(source, ast.Call) and isinstance(source.func, ast.Name) and source.func.id == "enumerate":
                assert isinstance(target, ast.Tuple)
                source, target = source.args[0], target.elts[1]
            if isinstance(target, ast.Name):
                self.names[target.id] = self.types(source)
        self.generic_visit(node)


def ledger(messages: Mapping[str, Descriptor]) -> Ledger:
    """What all converters together read and write."""
    reader = Reader(messages)
    for path in sorted(CONVERTERS.glob("*.py")):
        reader.visit(ast.parse(path.read_text(encoding="utf-8")))
    return Ledger(frozenset(reader.read), frozenset(reader.written))


def reachable(roots: Iterable[Descriptor]) -> dict[str, Descriptor]:
    """The messages that travel inside others, but for those behind an ignored field."""
    found: dict[str, Descriptor] = {}
    waiting = list(roots)
    while waiting:
        message = waiting.pop()
        if message.name not in found and not message.GetOptions().map_entry:
            found[message.name] = message
            waiting += [
                field.message_type
                for field in message.fields
                if field.message_type is not None and (message.name, field.name) not in IGNORED
            ]
    return found


def undecided(contract: FileDescriptor) -> set[Field]:
    """The fields of requests that no code reads, and of replies and other written messages that no code writes."""
    methods = [method for service in contract.services_by_name.values() for method in service.methods]
    found = ledger(contract.message_types_by_name)
    incoming = reachable(method.input_type for method in methods)
    outgoing = reachable(method.output_type for method in methods)
    written = {name for name, _ in found.written} | outgoing.keys()
    unread = {field for field in fields_of(incoming.values()) if field not in found.read}
    unwritten = {
        field
        for field in fields_of(contract.message_types_by_name[name] for name in written)
        if field not in found.written and field not in NEVER_WRITTEN and field not in JOINED
    }
    return (unread | unwritten) - IGNORED.keys()


def fields_of(messages: Iterable[Descriptor]) -> Iterator[Field]:
    for message in messages:
        yield from ((message.name, field.name) for field in message.fields)


def contract_with(message: str, field: str) -> FileDescriptor:
    """CRI as it would be with one field more."""
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    owner = next(found for found in file.message_type if found.name == message)
    owner.field.add(
        name=field,
        number=9999,
        type=FieldDescriptorProto.TYPE_STRING,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindFileByName(file.name)


def test_every_field_is_decided_about() -> None:
    """Each field of CRI is read where it comes in and written where it goes out, or stands in a table with a reason."""
    expected: set[Field] = set()
    assert expected == undecided(pb.DESCRIPTOR)


@pytest.mark.parametrize(
    "message", ["Mount", "ContainerStatus", "ExecRequest", "ListContainersResponse", "KeyValue", "PsiData", "UserNamespace"]
)
def test_a_new_field_is_noticed(message: str) -> None:
    """A field that CRI gets tomorrow is undecided, in requests and in replies."""
    expected = {(message, "brand_new")}
    assert expected == undecided(contract_with(message, "brand_new"))


def test_every_message_is_decided_about() -> None:
    """What no request or reply leads to, but over an ignored field, is Windows' alone."""
    methods = [method for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods]
    found = reachable(kind for method in methods for kind in (method.input_type, method.output_type))
    rest = pb.DESCRIPTOR.message_types_by_name.keys() - found.keys()
    assert {name for name in rest if not name.startswith("Windows")} == set()


def test_no_table_is_out_of_date() -> None:
    """What a table excuses exists, and needs the excuse."""
    existing = set(fields_of(pb.DESCRIPTOR.message_types_by_name.values()))
    found = ledger(pb.DESCRIPTOR.message_types_by_name)
    assert existing >= {*IGNORED, *NEVER_WRITTEN, *JOINED}
    assert not (found.read | found.written) & IGNORED.keys()
    assert found.read >= NEVER_WRITTEN.keys()
    assert not found.written & {*NEVER_WRITTEN, *JOINED}


@pytest.mark.parametrize("field", JOINED, ids=".".join)
def test_joined_lists_have_items_of_their_type(field: Field) -> None:
    """The encoder makes what the field of the reply holds, which is its only one unless the others are beside a status."""
    message = pb.DESCRIPTOR.message_types_by_name[field[0]]
    joined = message.fields_by_name[field[1]]
    assert "Status" in field[0] or [joined] == list(message.fields)
    assert joined.message_type is not None
    returned = JOINED[field].__annotations__["return"]
    assert returned.DESCRIPTOR.full_name == joined.message_type.full_name
