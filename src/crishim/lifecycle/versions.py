"""Records to bytes and back, across versions of this library.

Each record is one JSON object: `{"version": 2, "kind": "sandbox" | "container", ...}`. To change a record's shape in a way
that its defaults do not cover: raise `VERSION`, and add a function to `_STEPS` that takes the data one version up. The golden
files of the tests hold a record of every version that ever was.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from crishim.errors import DataLoss, FailedPrecondition
from crishim.lifecycle.records import ContainerRecord, Record, SandboxRecord
from crishim.lifecycle.structure import structure, unstructure

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


def dump_record(record: Record) -> bytes:
    """A record as the newest version's JSON, in ASCII."""
    kind = "sandbox" if isinstance(record, SandboxRecord) else "container"
    data = {"version": VERSION, "kind": kind, **unstructure(record)}
    return json.dumps(data, separators=(",", ":")).encode("ascii")


def load_record(raw: bytes) -> Record:
    """The record that `raw` holds, whatever known version wrote it.

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
        record: Record = structure(data, _KINDS[data.pop("kind")])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataLoss(f"not a record: {error}") from error
    return record
