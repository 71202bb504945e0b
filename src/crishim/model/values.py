"""Ids, frozen mappings, and items with a version."""

from collections.abc import Iterator, Mapping
from typing import Generic, NewType, TypeVar

import attrs

__all__ = ["EMPTY", "ContainerId", "FrozenDict", "ImageId", "SandboxId"]

SandboxId = NewType("SandboxId", str)
"""A sandbox's id: 64 hexadecimal digits, chosen by the library."""
ContainerId = NewType("ContainerId", str)
"""A container's id: 64 hexadecimal digits, chosen by the library."""
ImageId = NewType("ImageId", str)
"""An image's id, as its service gives it."""


K = TypeVar("K")
V_co = TypeVar("V_co", covariant=True)


class FrozenDict(Mapping[K, V_co]):
    """A mapping that keeps the order of its items, cannot change, and can be hashed when its values can."""

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[K, V_co] | None = None) -> None:
        self._items: dict[K, V_co] = dict(items or {})
        self._hash: int | None = None

    def __getitem__(self, key: K) -> V_co:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self._items.items()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FrozenDict):
            return self._items == other._items
        return isinstance(other, Mapping) and self._items == dict(other)

    def __repr__(self) -> str:
        return f"FrozenDict({self._items!r})"


def frozen(items: Mapping[str, str]) -> FrozenDict[str, str]:
    """The attrs converter behind every text-to-text field."""
    return items if isinstance(items, FrozenDict) else FrozenDict(items)


EMPTY: FrozenDict[str, str] = FrozenDict()
"""The empty mapping, the default of text-to-text fields."""


T_co = TypeVar("T_co", covariant=True)


@attrs.frozen
class Versioned(Generic[T_co]):
    """An item of a list. For one id, items with the same `version` are equal, and a changed item has a larger version."""

    version: int
    item: T_co
