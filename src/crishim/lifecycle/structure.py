"""Frozen attrs values to plain JSON data and back, driven by their annotations.

Only for records, where both ends are the same class: the wire is translated by hand. Fields at their default are left out, so
records stay short, and a new field with a default needs no new version. What does not fit its annotation raises `ValueError`.
"""

import enum
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import attrs

from crishim.model.frozen import FrozenDict


def unstructure(value: object) -> Any:
    """JSON data for a value: attrs classes become objects, enumerations their values, tuples lists."""
    kind = type(value)
    if attrs.has(kind):
        data = {}
        for field in attrs.fields(kind):
            item = getattr(value, field.name)
            if field.default is attrs.NOTHING or item != field.default:
                data[field.name] = unstructure(item)
        return data
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [unstructure(item) for item in value]
    if isinstance(value, Mapping):
        return {key: unstructure(item) for key, item in value.items()}
    return value


def structure(data: object, kind: Any) -> Any:
    """The value of type `kind` that `data` stands for."""
    origin = typing.get_origin(kind)
    if origin in {typing.Union, types.UnionType}:
        if data is None:
            return None
        (kind,) = (arm for arm in typing.get_args(kind) if arm is not types.NoneType)
        return structure(data, kind)
    if origin is tuple:
        _expect(data, list)
        return tuple(structure(item, typing.get_args(kind)[0]) for item in typing.cast("list[object]", data))
    if origin is FrozenDict:
        _expect(data, dict)
        return FrozenDict({key: structure(item, str) for key, item in typing.cast("dict[str, object]", data).items()})
    plain = getattr(kind, "__supertype__", kind)
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return plain(data)
    if attrs.has(plain):
        _expect(data, dict)
        fields = _annotations(plain)
        given = typing.cast("dict[str, object]", data)
        if unknown := given.keys() - fields.keys():
            raise ValueError(f"{plain.__name__} has no {', '.join(sorted(unknown))}")
        return plain(**{name: structure(item, fields[name]) for name, item in given.items()})
    _expect(data, plain)
    return data


@cache
def _annotations(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in attrs.fields(kind)}


def _expect(data: object, kind: type) -> None:
    if type(data) is not kind:
        raise ValueError(f"{kind.__name__} expected, not {type(data).__name__}")
