"""What the library remembers of a sandbox or container: what was asked and decided, never what runs.

A record is immutable but for its phase, and for a few facts that become known later: a sandbox's namespace and addresses, a
container's user, its limits after an update, and its exit. It is written before the act it announces. Whether something runs
is the backend's to say; the exit alone is kept here too, since some runtimes forget it.

Frozen attrs values to plain JSON data and back, driven by their annotations.

Only for records, where both ends are the same class: the wire is translated by hand. Fields at their default are left out, so
records stay short, and a new field with a default needs no new version: fields that a version does not know are kept beside
the record and written back. What does not fit its annotation raises `ValueError`.

Records to bytes and back, across versions of this library.

Each record is one JSON object: `{"version": 2, "kind": "sandbox" | "container", ...}`. To change a record's shape in a way
that its defaults do not cover: raise `VERSION`, and add a function to `_STEPS` that takes the data one version up. The golden
files of the tests hold a record of every version that ever was.
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


class Phase(enum.StrEnum):
    """How far a request has come. CREATING and REMOVING are unfinished, and end in removal after a crash.

    STOPPED belongs to sandboxes: a stop was asked for, and is repeated after a crash, since all its steps are repeatable.
    """

    CREATING = "creating"
    READY = "ready"
    STOPPED = "stopped"
    REMOVING = "removing"


@attrs.frozen(kw_only=True)
class SandboxRecord:
    """A sandbox that was asked for. `netns` and `ips` are empty until the network is up, and after a stop.

    `boot_id` tells in which boot of the machine it was made: in another one nothing of it runs. `backend` is the name of the
    backend that made it; empty in records of before there was that field.
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
        """What the backend received for it."""
        return SandboxSpec(id=self.id, config=self.config, handler=self.handler, netns=self.netns, ips=self.ips)


@attrs.frozen(kw_only=True)
class ExitRecord:
    """How a container ended, as ContainerStatus tells it. Times are nanoseconds; `started_at` is 0 if it never ran."""

    code: int
    reason: str
    message: str = ""
    started_at: int = 0
    finished_at: int


@attrs.frozen(kw_only=True)
class ContainerRecord:
    """A container that was asked for. `image_ref` is what status shows beside `image_id`.

    `mounts` are the configuration's with the images of image volumes looked up; empty where there is none of these.
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


def unstructure(value: object) -> Any:
    """JSON data for a value: attrs classes become objects, enumerations their values, tuples lists."""
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
    """The value of type `kind` that `data` stands for, without the fields that it does not have (`unknown_fields`)."""
    return _reader(kind)(data)


def unknown_fields(data: Any, kind: Any) -> dict[str, Any]:
    """The parts of JSON data that the attrs class `kind` has no fields for, as of a later version; none within lists."""
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for name, item in data.items():
        if name not in hints:
            found[name] = item
        elif (
            (inner := _class_of(hints[name])) is not None and isinstance(item, dict) and (deeper := unknown_fields(item, inner))
        ):
            found[name] = deeper
    return found


def _class_of(kind: Any) -> type | None:
    """The attrs class that a field's annotation names, also as one that may be None."""
    for arm in typing.get_args(kind) or (kind,):
        if isinstance(arm, type) and attrs.has(arm):
            return arm
    return None


def merge_unknown(data: dict[str, Any], unknown: Mapping[str, Any]) -> None:
    """Put unknown fields back into JSON data, where nothing else stands now."""
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
    """What makes a value of type `kind` of data."""
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
    """Version 1 kept a container's limits only in its configuration."""
    if data["kind"] == "container" and "resources" not in data:
        limits = (data["config"].get("linux") or {}).get("resources")
        if limits is not None:
            data = {**data, "resources": limits}
    return data


_STEPS: Final[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {1: _from_1}


def dump_record(record: Record, unknown: Mapping[str, Any] = EMPTY) -> bytes:
    """A record as the newest version's JSON, in ASCII, with the unknown fields that it was read with."""
    kind = "sandbox" if isinstance(record, SandboxRecord) else "container"
    data = {"version": VERSION, "kind": kind, **unstructure(record)}
    merge_unknown(data, unknown)
    return json.dumps(data, separators=(",", ":")).encode("ascii")


def load_record(raw: bytes) -> tuple[Record, dict[str, Any]]:
    """The record that `raw` holds, whatever known version wrote it, and the fields of it that this version does not know.

    Raises `FailedPrecondition` for a newer version and `DataLoss` for anything that is no record.
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
