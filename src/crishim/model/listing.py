"""List items with a version: what lets a door keep an item's encoding."""

from typing import Generic, TypeVar

import attrs

T_co = TypeVar("T_co", covariant=True)


@attrs.frozen
class Versioned(Generic[T_co]):
    """An item of a list. For one id, items with the same `version` are equal, and a changed item has a larger version."""

    version: int
    item: T_co
