"""Every field of a request, and a request that sets it, as the input of `verdicts` (pure).

A field is named by its path in its message, `linux.resources.cpu_shares`; where each of its values needs a request of its own
there is a name for each: `...namespace_options.pid=NODE`. New fields of CRI appear by themselves; for a field whose usual
value is invalid alone, `SAMPLES` has a valid text.
"""

from collections.abc import Iterator
from typing import Final, TypeVar

import attrs
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from crishim.cri.ignored import IGNORED

M = TypeVar("M", bound=Message)

_BY_VALUE: Final = frozenset({"NamespaceMode", "ProfileType", "MountPropagation", "SupplementalGroupsPolicy", "Protocol"})
_RIGHTS: Final = "linux.security_context"
_SPACES: Final = f"{_RIGHTS}.namespace_options"
_LINES: Final = "{0} {{ host_id: 100000 length: 65536 }} {1} {{ host_id: 100000 length: 65536 }}"
_MOUNT: Final = 'host_path: "/source" container_path: "/mounted"'

SAMPLES: Final = {
    "log_directory": 'log_directory: "/elsewhere"',
    "port_mappings": 'port_mappings { container_port: 80 host_port: 8080 host_ip: "127.0.0.1" }',
    "port_mappings.protocol=TCP": "container_port: 80 host_port: 8080 protocol: TCP",
    "port_mappings.protocol=UDP": "container_port: 80 host_port: 8080 protocol: UDP",
    "port_mappings.protocol=SCTP": "container_port: 80 host_port: 8080 protocol: SCTP",
    "linux.sysctls": 'sysctls { key: "net.ipv4.ip_forward" value: "1" }',
    "linux.cgroup_parent": 'cgroup_parent: "/parent"',
    f"{_SPACES}.pid=TARGET": 'pid: TARGET target_id: "target"',
    f"{_SPACES}.target_id": 'pid: TARGET target_id: "target"',
    f"{_SPACES}.userns_options.mode=POD": f"mode: POD {_LINES.format('uids', 'gids')}",
    f"{_SPACES}.userns_options.uids": f"mode: POD {_LINES.format('uids', 'gids')}",
    f"{_SPACES}.userns_options.gids": f"mode: POD {_LINES.format('uids', 'gids')}",
    f"{_RIGHTS}.run_as_group": "run_as_user { value: 1 } run_as_group { value: 1 }",
    f"{_RIGHTS}.seccomp.profile_type=Localhost": 'profile_type: Localhost localhost_ref: "localhost/profile"',
    f"{_RIGHTS}.seccomp.localhost_ref": 'profile_type: Localhost localhost_ref: "localhost/profile"',
    f"{_RIGHTS}.apparmor.profile_type=Localhost": 'profile_type: Localhost localhost_ref: "profile"',
    f"{_RIGHTS}.apparmor.localhost_ref": 'profile_type: Localhost localhost_ref: "profile"',
    f"{_RIGHTS}.seccomp_profile_path": 'seccomp_profile_path: "localhost/profile"',
    f"{_RIGHTS}.apparmor_profile": 'apparmor_profile: "localhost/profile"',
    f"{_RIGHTS}.selinux_options.level": 'level: "s0"',
    f"{_RIGHTS}.masked_paths": 'masked_paths: "/proc/cpuinfo"',
    f"{_RIGHTS}.readonly_paths": 'readonly_paths: "/proc/cpuinfo"',
    f"{_RIGHTS}.capabilities.add_capabilities": 'add_capabilities: "NET_ADMIN"',
    f"{_RIGHTS}.capabilities.drop_capabilities": 'drop_capabilities: "CHOWN"',
    f"{_RIGHTS}.capabilities.add_ambient_capabilities": 'add_ambient_capabilities: "NET_ADMIN"',
    "linux.resources.hugepage_limits": 'hugepage_limits { page_size: "2MB" limit: 1 }',
    "linux.overhead.hugepage_limits": 'hugepage_limits { page_size: "2MB" limit: 1 }',
    "linux.resources.memory_swap_limit_in_bytes": "memory_limit_in_bytes: 1 memory_swap_limit_in_bytes: 2",
    "linux.resources.cpuset_cpus": 'cpuset_cpus: "0"',
    "linux.resources.cpuset_mems": 'cpuset_mems: "0"',
    "envs": 'envs { key: "NAME" value: "value" }',
    "mounts": f"mounts {{ {_MOUNT} }}",
    "mounts.readonly": f"{_MOUNT} readonly: true",
    "mounts.selinux_relabel": f"{_MOUNT} selinux_relabel: true",
    "mounts.propagation=PROPAGATION_HOST_TO_CONTAINER": f"{_MOUNT} propagation: PROPAGATION_HOST_TO_CONTAINER",
    "mounts.propagation=PROPAGATION_BIDIRECTIONAL": f"{_MOUNT} propagation: PROPAGATION_BIDIRECTIONAL",
    "mounts.recursive_read_only": f"{_MOUNT} readonly: true recursive_read_only: true",
    "mounts.uidMappings": f"{_MOUNT} {_LINES.format('uidMappings', 'gidMappings')}",
    "mounts.gidMappings": f"{_MOUNT} {_LINES.format('uidMappings', 'gidMappings')}",
    "mounts.image": 'container_path: "/mounted" readonly: true image { image: "other" image_ref: "other" }',
    "mounts.image_sub_path": 'container_path: "/mounted" readonly: true image { image: "other" } image_sub_path: "below"',
    "mounts.mount_options": f'{_MOUNT} mount_options: "noexec"',
    "devices": 'devices { container_path: "/dev/thing" host_path: "/dev/null" permissions: "r" }',
}
"""Requests by field or prefix of a field: the text of the message that contains the last part of the name."""


@attrs.frozen
class Field:
    """A field by its name, and the reason if it is never read."""

    name: str
    leaf: FieldDescriptor
    ignored: str = ""


def fields(message: Descriptor, path: str = "", *, without: frozenset[str] = frozenset()) -> Iterator[Field]:
    """The fields of a message and of its sub-messages that have a value; `without` names fields to leave out with their
    sub-messages.
    """
    for field in message.fields:
        name, inner = f"{path}{field.name}", field.message_type
        if name in without:
            continue
        if (reason := IGNORED.get((message.name, field.name))) is not None:
            yield Field(name, field, reason)
        elif inner is not None and not inner.GetOptions().map_entry and inner.fields_by_name.keys() != {"value"}:
            yield from fields(inner, f"{name}.", without=without)
        elif field.enum_type is not None and field.enum_type.name in _BY_VALUE:
            for value in field.enum_type.values:
                yield Field(f"{name}={value.name}", field)
        else:
            yield Field(name, field)


def with_field(message: M, field: Field) -> M:
    """A copy of a message with the field set."""
    copied = type(message)()
    copied.CopyFrom(message)
    name, text = field.name, None
    while name and text is None:
        text = SAMPLES.get(name)
        if text is None:
            name = name.rpartition(".")[0]
    place, _, last = (name or field.name).rpartition(".")
    text = text or _usual(field.leaf, last)
    for word in reversed(place.split(".") if place else []):
        text = f"{word} {{ {text} }}"
    text_format.Merge(text, copied)
    return copied


def _usual(field: FieldDescriptor, last: str) -> str:
    """A value of the field's type."""
    name, _, value = last.partition("=")
    if value:
        return f"{name}: {value}"
    if field.message_type is not None:
        inner = field.message_type
        return f'{name} {{ key: "key" value: "value" }}' if inner.GetOptions().map_entry else f"{name} {{ value: 1 }}"
    if field.enum_type is not None:
        return f"{name}: {field.enum_type.values[-1].name}"
    kinds = {FieldDescriptor.CPPTYPE_STRING: '"text"', FieldDescriptor.CPPTYPE_BOOL: "true"}
    return f"{name}: {kinds.get(field.cpp_type, '1')}"
