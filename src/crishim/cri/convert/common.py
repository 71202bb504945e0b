"""Conversions and checks that several messages share: strings, optional numbers, maps, enumerations, metadata and ids."""

import enum
import posixpath
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from crishim._proto import cri_pb2 as pb
from crishim.errors import InvalidArgument
from crishim.model.container import ContainerMetadata
from crishim.model.process import Signal
from crishim.model.sandbox import PodSandboxMetadata
from crishim.model.values import EMPTY, FrozenDict, SandboxId

E = TypeVar("E", bound=enum.IntEnum)

MAX_ID: Final = 2**31 - 1
"""The largest user or group id that container runtimes take."""

MAX_PORT: Final = 2**16 - 1


def decode_nothing(_request: object) -> tuple[()]:
    """The arguments of a request without fields: none."""
    return ()


def encode_empty(_nothing: None) -> bytes:
    """The response without fields, which is encoded as no bytes."""
    return b""


def decode_map(items: Mapping[str, str]) -> FrozenDict[str, str]:
    """A map of strings. Its order has no meaning on the wire."""
    return FrozenDict(items) if items else EMPTY


def decode_bytes(value: bytes) -> str:
    """A string from a field of bytes; invalid UTF-8 becomes surrogate escapes (PEP 383), from which `encode_bytes` restores
    it.
    """
    return value.decode("utf-8", "surrogateescape")


def encode_bytes(value: str) -> bytes:
    """The bytes from which `decode_bytes` made the string."""
    return value.encode("utf-8", "surrogateescape")


def encode_text(value: str) -> str:
    """A message text with lone surrogates replaced by question marks, so that protobuf accepts it."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def encode_texts(items: Mapping[str, str]) -> dict[str, str]:
    """A map of strings for the wire, each as in `encode_text`."""
    return {encode_text(key): encode_text(value) for key, value in items.items()}


def encode_int64(value: int | None) -> pb.Int64Value | None:
    """A wrapped number; None leaves the field unset."""
    return None if value is None else pb.Int64Value(value=value)


def encode_uint64(value: int | None) -> pb.UInt64Value | None:
    """A wrapped number, not negative; None leaves the field unset."""
    return None if value is None else pb.UInt64Value(value=value)


def decode_enum(kind: type[E], number: int, field: str) -> E:
    """A member of an enumeration. proto3 enumerations are open; a number that CRI does not name raises `InvalidArgument`."""
    try:
        return kind(number)
    except ValueError:
        raise InvalidArgument(field, f"has the unknown value {number}") from None


def decode_signal(number: int, field: str) -> Signal:
    """A signal by CRI's number, which is not Linux's."""
    return decode_enum(Signal, number, field)


def encode_signal(signal: Signal) -> pb.Signal.ValueType:
    """CRI's number of a signal."""
    return pb.Signal.ValueType(signal)


def not_empty(value: str, field: str) -> str:
    """`value`. Raises `InvalidArgument` if it is empty."""
    if not value:
        raise InvalidArgument(field, "must not be empty")
    return value


def absolute(path: str, field: str) -> str:
    """`path`. Raises `InvalidArgument` unless it is absolute."""
    if not posixpath.isabs(path):
        raise InvalidArgument(field, "must be an absolute path")
    return path


def between(number: int, low: int, high: int, field: str) -> int:
    """`number`. Raises `InvalidArgument` unless `low <= number <= high`."""
    if not low <= number <= high:
        raise InvalidArgument(field, f"must lie between {low} and {high}, and is {number}")
    return number


def at_least(number: int, low: int, field: str) -> int:
    """`number`. Raises `InvalidArgument` if it is smaller than `low`."""
    if number < low:
        raise InvalidArgument(field, f"must be {low} or more, and is {number}")
    return number


def ids(numbers: Iterable[int], field: str) -> tuple[int, ...]:
    """User or group ids. Raises `InvalidArgument`, naming the index, for one that is out of range."""
    return tuple(between(number, 0, MAX_ID, f"{field}[{place}]") for place, number in enumerate(numbers))


def decode_sandbox(message: pb.PodSandboxMetadata, path: str) -> PodSandboxMetadata:
    """A sandbox's metadata. Name, namespace and uid are required: clients refuse a status without them."""
    return PodSandboxMetadata(
        name=not_empty(message.name, f"{path}.name"),
        namespace=not_empty(message.namespace, f"{path}.namespace"),
        uid=not_empty(message.uid, f"{path}.uid"),
        attempt=message.attempt,
    )


def encode_sandbox(metadata: PodSandboxMetadata) -> pb.PodSandboxMetadata:
    """A sandbox's metadata."""
    return pb.PodSandboxMetadata(
        name=metadata.name,
        uid=metadata.uid,
        namespace=metadata.namespace,
        attempt=metadata.attempt,
    )


def decode_container(message: pb.ContainerMetadata, path: str) -> ContainerMetadata:
    """A container's metadata. The name is required."""
    return ContainerMetadata(name=not_empty(message.name, f"{path}.name"), attempt=message.attempt)


def encode_container(metadata: ContainerMetadata) -> pb.ContainerMetadata:
    """A container's metadata."""
    return pb.ContainerMetadata(name=metadata.name, attempt=metadata.attempt)


def sandbox_id(text: str) -> SandboxId:
    """The id in a request's `pod_sandbox_id`."""
    return SandboxId(not_empty(text, "pod_sandbox_id"))
