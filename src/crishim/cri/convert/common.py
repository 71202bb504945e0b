"""What every noun needs: texts, numbers that may be absent, maps, enumerations; and the checks that name a field.

The names of sandboxes and containers.
"""

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
    """The arguments in a request that has no fields."""
    return ()


def encode_empty(_nothing: None) -> bytes:
    """The reply that has no fields; on the wire that is no byte at all."""
    return b""


def decode_map(items: Mapping[str, str]) -> FrozenDict[str, str]:
    """A map of texts. The wire keeps no order; neither does equality."""
    return FrozenDict(items) if items else EMPTY


def decode_bytes(value: bytes) -> str:
    """Text out of a field of bytes; what is no UTF-8 becomes surrogate escapes (PEP 383), and so survives."""
    return value.decode("utf-8", "surrogateescape")


def encode_bytes(value: str) -> bytes:
    """The bytes that such a text came from."""
    return value.encode("utf-8", "surrogateescape")


def encode_text(value: str) -> str:
    """A text for people, from a backend or the system, made fit for the wire: lone surrogates become question marks."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def encode_texts(items: Mapping[str, str]) -> dict[str, str]:
    """A map of such texts."""
    return {encode_text(key): encode_text(value) for key, value in items.items()}


def encode_int64(value: int | None) -> pb.Int64Value | None:
    """A number whose absence is not zero; None leaves the field unset."""
    return None if value is None else pb.Int64Value(value=value)


def encode_uint64(value: int | None) -> pb.UInt64Value | None:
    """A number, not negative, whose absence is not zero; None leaves the field unset."""
    return None if value is None else pb.UInt64Value(value=value)


def decode_enum(kind: type[E], number: int, field: str) -> E:
    """A member of an enumeration. proto3's are open: any number arrives, and one that CRI does not name is refused."""
    try:
        return kind(number)
    except ValueError:
        raise InvalidArgument(field, f"has the unknown value {number}") from None


def decode_signal(number: int, field: str) -> Signal:
    """A signal as CRI numbers them, which is not as Linux does."""
    return decode_enum(Signal, number, field)


def encode_signal(signal: Signal) -> pb.Signal.ValueType:
    """The wire's number of a signal."""
    return pb.Signal.ValueType(signal)


def not_empty(value: str, field: str) -> str:
    """`value`, refused when empty."""
    if not value:
        raise InvalidArgument(field, "must not be empty")
    return value


def absolute(path: str, field: str) -> str:
    """`path`, refused unless it begins at the root."""
    if not posixpath.isabs(path):
        raise InvalidArgument(field, "must be an absolute path")
    return path


def between(number: int, low: int, high: int, field: str) -> int:
    """`number`, refused unless it lies between the two, both included."""
    if not low <= number <= high:
        raise InvalidArgument(field, f"must lie between {low} and {high}, and is {number}")
    return number


def at_least(number: int, low: int, field: str) -> int:
    """`number`, refused when smaller than `low`."""
    if number < low:
        raise InvalidArgument(field, f"must be {low} or more, and is {number}")
    return number


def ids(numbers: Iterable[int], field: str) -> tuple[int, ...]:
    """User or group ids, each refused when out of range; they are named by their place in the list."""
    return tuple(between(number, 0, MAX_ID, f"{field}[{place}]") for place, number in enumerate(numbers))


def decode_sandbox(message: pb.PodSandboxMetadata, path: str) -> PodSandboxMetadata:
    """A sandbox's name. All three texts are needed: clients refuse a status that lacks one."""
    return PodSandboxMetadata(
        name=not_empty(message.name, f"{path}.name"),
        namespace=not_empty(message.namespace, f"{path}.namespace"),
        uid=not_empty(message.uid, f"{path}.uid"),
        attempt=message.attempt,
    )


def encode_sandbox(metadata: PodSandboxMetadata) -> pb.PodSandboxMetadata:
    """A sandbox's name."""
    return pb.PodSandboxMetadata(
        name=metadata.name,
        uid=metadata.uid,
        namespace=metadata.namespace,
        attempt=metadata.attempt,
    )


def decode_container(message: pb.ContainerMetadata, path: str) -> ContainerMetadata:
    """A container's name, which is needed."""
    return ContainerMetadata(name=not_empty(message.name, f"{path}.name"), attempt=message.attempt)


def encode_container(metadata: ContainerMetadata) -> pb.ContainerMetadata:
    """A container's name."""
    return pb.ContainerMetadata(name=metadata.name, attempt=metadata.attempt)


def sandbox_id(text: str) -> SandboxId:
    """The id in a request's `pod_sandbox_id`."""
    return SandboxId(not_empty(text, "pod_sandbox_id"))
