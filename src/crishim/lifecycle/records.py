"""The records of sandboxes and containers, and their JSON form.

A record stores what was requested and decided, never what runs. It is immutable but for its phase and a few facts that become
known later: a sandbox's namespace and addresses, a container's user, its limits after an update, and its exit. It is written
before the act that it announces. The backend reports whether something runs; only the exit is stored here too, since some
runtimes forget it.

`unstructure` and `structure` convert frozen attrs values to plain JSON data and back, driven by their annotations; the wire is
converted by hand, in `cri`. Fields with their default value are left out, so records stay short and a new field with a default
needs no new version. Unknown fields are stored beside the record and written back. Data that does not match the annotation
raises `ValueError`.

Each record is one JSON object: `{"version": 2, "kind": "sandbox" | "container", ...}`. To change a record's shape in a way
that defaults do not cover, raise `VERSION`, and add a function to `_STEPS` that converts the data to the next version. The
golden files of the tests have a record of every version.
"""

import enum
import json
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

import attrs

from crishim.errors import DataLoss, FailedPrecondition
from crishim.model.container import ContainerConfig, Mount
from crishim.model.process import Signal
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxConfig, SandboxSpec
from crishim.model.security import LinuxContainerUser
from crishim.model.values import EMPTY, ContainerId, FrozenDict, ImageId, SandboxId

__all__ = ["ContainerRecord", "ExitRecord", "Phase", "Record", "SandboxRecord", "dump_record", "load_record"]


class Phase(enum.StrEnum):
    """The progress of a request. CREATING and REMOVING are unfinished, and lead to a removal after a crash.

    STOPPED is for sandboxes: a stop was requested. Its steps are repeatable, and are repeated after a crash.
    """

    CREATING = "creating"
    READY = "ready"
    STOPPED = "stopped"
    REMOVING = "removing"


@attrs.frozen(kw_only=True)
class SandboxRecord:
    """A requested sandbox. `netns` and `ips` are empty until the network is set up, and after a stop.

    `boot_id` names the boot in which it was created: after a reboot nothing of it runs. `backend` is the name of the backend
    that created it, empty in records written before the field existed.
    """

    id: SandboxId
    phase: Phase = Phase.CREATING
    config: PodSandboxConfig
    handler: str = ""
    boot_id: str = ""
    backend: str = ""
    created_at: int
    netns: str = ""
    ips: tuple[str, ...] = ()
    overhead: Resources | None = None
    resources: Resources | None = None

    @property
    def spec(self) -> SandboxSpec:
        """What the backend received for the sandbox."""
        return SandboxSpec(id=self.id, config=self.config, handler=self.handler, netns=self.netns, ips=self.ips)


@attrs.frozen(kw_only=True)
class ExitRecord:
    """How a container ended, as in ContainerStatus. Times are nanoseconds since the epoch; `started_at` is 0 if it
    never ran.
    """

    code: int
    reason: str
    message: str = ""
    started_at: int = 0
    finished_at: int


@attrs.frozen(kw_only=True)
class ContainerRecord:
    """A requested container. `image_ref` is what ContainerStatus shows beside `image_id`.

    `mounts` are those of the configuration with the ids of image volumes filled in; empty if there are no image volumes.
    """

    id: ContainerId
    sandbox_id: SandboxId
    phase: Phase = Phase.CREATING
    config: ContainerConfig
    created_at: int
    image: str = ""
    image_id: ImageId
    image_ref: str = ""
    log_path: str = ""
    mounts: tuple[Mount, ...] = ()
    stop_signal: Signal = Signal.SIGTERM
    resources: Resources = Resources()
    user: LinuxContainerUser | None = None
    exit: ExitRecord | None = None


Record: TypeAlias = SandboxRecord | ContainerRecord
"""What a `RecordStore` stores."""


def unstructure(value: object) -> Any:
    """The JSON data of a value: attrs classes become objects, enumerations their values, tuples lists."""
    kind: Any = type(value)
    fields = _fields(kind)
    if fields is not None:
        items = ((name, getattr(value, name), default) for name, default in fields)
        return {name: unstructure(item) for name, item, default in items if item != default}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [unstructure(item) for item in value]
    if isinstance(value, Mapping):
        return {key: unstructure(item) for key, item in value.items()}
    return value


def structure(data: object, kind: Any) -> Any:
    """The value of type `kind` for JSON data. Unknown fields are ignored (see `unknown_fields`). Raises `ValueError`."""
    return _reader(kind)(data)


def unknown_fields(data: Any, kind: Any) -> dict[str, Any]:
    """The parts of JSON data for which the attrs class `kind` has no field, as written by a later version; not within lists."""
    hints = typing.get_type_hints(kind)
    unknown: dict[str, Any] = {}
    for name, item in data.items():
        if name not in hints:
            unknown[name] = item
        elif (
            (inner := _class_of(hints[name])) is not None and isinstance(item, dict) and (deeper := unknown_fields(item, inner))
        ):
            unknown[name] = deeper
    return unknown


def _class_of(kind: Any) -> type | None:
    """The attrs class that a field's annotation names, alone or in a union with None."""
    for arm in typing.get_args(kind) or (kind,):
        if isinstance(arm, type) and attrs.has(arm):
            return arm
    return None


def merge_unknown(data: dict[str, Any], unknown: Mapping[str, Any]) -> None:
    """Put unknown fields back into JSON data where no known value stands."""
    for name, item in unknown.items():
        if name not in data:
            data[name] = item
        elif isinstance(item, dict) and isinstance(data[name], dict):
            merge_unknown(data[name], item)


@cache
def _fields(kind: type) -> tuple[tuple[str, object], ...] | None:
    """The names and defaults of an attrs class's fields; None for other classes."""
    return tuple((field.name, field.default) for field in attrs.fields(kind)) if attrs.has(kind) else None


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """A function that converts JSON data to a value of type `kind`."""
    origin, arms = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        (read,) = (_reader(arm) for arm in arms if arm is not types.NoneType)
        return lambda data: None if data is None else read(data)
    if origin is tuple:
        item = _reader(arms[0])
        return lambda data: tuple(item(each) for each in _expected(data, list))
    if origin is FrozenDict:
        text = _reader(str)
        return lambda data: FrozenDict({key: text(value) for key, value in _expected(data, dict).items()})
    plain = getattr(kind, "__supertype__", kind)
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return plain
    if attrs.has(plain):
        return _reader_of_class(plain)
    return lambda data: _expected(data, plain)


def _reader_of_class(kind: type) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in attrs.fields(kind)}

    def read(data: Any) -> Any:
        given = _expected(data, dict)
        return kind(**{name: readers[name](item) for name, item in given.items() if name in readers})

    return read


def _expected(data: Any, kind: type) -> Any:
    if type(data) is not kind:
        raise ValueError(f"{kind.__name__} expected, not {type(data).__name__}")
    return data


VERSION: Final = 2

_KINDS: Final[Mapping[str, type[SandboxRecord] | type[ContainerRecord]]] = {
    "sandbox": SandboxRecord,
    "container": ContainerRecord,
}


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Add `resources`: version 1 had a container's limits only in its configuration."""
    if data["kind"] == "container" and "resources" not in data:
        limits = (data["config"].get("linux") or {}).get("resources")
        if limits is not None:
            data = {**data, "resources": limits}
    return data


_STEPS: Final[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {1: _from_1}


def dump_record(record: Record, unknown: Mapping[str, Any] = EMPTY) -> bytes:
    """A record as ASCII JSON of the newest version, with the unknown fields that it was read with."""
    kind = "sandbox" if isinstance(record, SandboxRecord) else "container"
    data = {"version": VERSION, "kind": kind, **unstructure(record)}
    merge_unknown(data, unknown)
    return json.dumps(data, separators=(",", ":")).encode("ascii")


def load_record(raw: bytes) -> tuple[Record, dict[str, Any]]:
    """The record in `raw`, written by any known version, and its fields that this version does not know.

    Raises `FailedPrecondition` for a newer version and `DataLoss` for anything that is not a record.
    """
    try:
        data = json.loads(raw)
        version = data.pop("version")
        if not isinstance(version, int):
            raise TypeError("its version is no number")
        if version > VERSION:
            raise FailedPrecondition(f"of version {version}", f"of version {VERSION} or older", "the record")
        for step in range(version, VERSION):
            data = _STEPS[step](data)
        kind = _KINDS[data.pop("kind")]
        record: Record = structure(data, kind)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataLoss(f"not a record: {error}") from error
    return record, unknown_fields(data, kind)
