"""Frozen attrs values to plain JSON data and back, driven by their annotations.

Only for records, where both ends are the same class: the wire is translated by hand. Fields at their default are left out, so
records stay short, and a new field with a default needs no new version. What does not fit its annotation raises `ValueError`.
"""

import enum
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import attrs

from crishim.model.frozen import FrozenDict


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
    """The value of type `kind` that `data` stands for."""
    return _reader(kind)(data)


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
        if unknown := given.keys() - readers.keys():
            raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
        return kind(**{name: readers[name](item) for name, item in given.items()})

    return read


def _expected(data: Any, kind: type) -> Any:
    if type(data) is not kind:
        raise ValueError(f"{kind.__name__} expected, not {type(data).__name__}")
    return data
