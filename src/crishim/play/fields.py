"""Reading a manifest strictly: every field is known, or it is refused by its path.

A `Fields` stands for one object of the manifest. A field that is requested is checked and counts as read; `done` refuses
all others. All refusals are `InvalidArgument` with the path, as in `spec.containers[0].livenessProbe.httpGet`.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from crishim.errors import InvalidArgument
from crishim.model.values import FrozenDict

T = TypeVar("T")


class Fields:
    """One object of a manifest, at `path` (empty for the whole). An absent object reads as an empty one."""

    def __init__(self, value: object, path: str = "") -> None:
        if value is not None and not isinstance(value, Mapping):
            raise InvalidArgument(path or "manifest", "must be an object")
        self.path = path
        self._items: Mapping[str, Any] = value or {}
        self._read: set[str] = set()

    @property
    def raw(self) -> Mapping[str, Any]:
        """The object as it is in the manifest."""
        return self._items

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._items.get(name) is not None

    def skip(self, *names: str) -> None:
        """Accept fields that mean nothing to a runtime."""
        self._read.update(names)

    def text(self, name: str, default: str = "") -> str:
        """A field of text."""
        return self._get(name, str, "a text", default)

    def needed(self, name: str) -> str:
        """A field of text that must not be empty."""
        if not (value := self.text(name)):
            raise InvalidArgument(self.at(name), "is missing")
        return value

    def choice(self, name: str, default: str, *others: str) -> str:
        """A field that is one of a few words."""
        value = self.text(name, default) or default
        if value not in {default, *others}:
            raise InvalidArgument(self.at(name), f"must be one of {', '.join(word for word in (default, *others) if word)}")
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A field of true or false."""
        return self._get(name, bool, "true or false", default)

    def number(self, name: str, default: int = 0, least: int = 0) -> int:
        """A whole number, at least `least`."""
        value = self._get(name, int, "a whole number", default)
        if isinstance(value, bool) or value < least:
            raise InvalidArgument(self.at(name), f"must be a whole number from {least}")
        return value

    def optional_number(self, name: str) -> int | None:
        """A whole number from 0, or None."""
        value = self.number(name)
        return value if self.has(name) else None

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        items = self._get(name, list, "a list", [])
        if not all(isinstance(item, str) for item in items):
            raise InvalidArgument(self.at(name), "must be a list of texts")
        return tuple(items)

    def port(self, name: str, known: Mapping[str, int]) -> int:
        """A port by its number, or by its name among the known ones."""
        value = self._get(name, object, "a port", 0)
        number = known.get(value) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= 65535:
            raise InvalidArgument(self.at(name), f"must be a port from 1 to 65535, or the name of one: {value!r}")
        return number

    def numbers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        items = self._get(name, list, "a list", [])
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            raise InvalidArgument(self.at(name), "must be a list of whole numbers")
        return tuple(items)

    def map(self, name: str) -> FrozenDict[str, str]:
        """An object whose values are texts."""
        items = self._get(name, dict, "an object", {})
        if not all(isinstance(part, str) for item in items.items() for part in item):
            raise InvalidArgument(self.at(name), "must have texts for names and values")
        return FrozenDict(items)

    def quantities(self, name: str) -> Mapping[str, str]:
        """An object of quantities, which may be written as numbers too."""
        items = self._get(name, dict, "an object", {})
        return {str(key): str(value) for key, value in items.items()}

    def child(self, name: str) -> "Fields":
        """An object inside this one."""
        self._read.add(name)
        return Fields(self._items.get(name), self.at(name))

    def children(self, name: str) -> list["Fields"]:
        """A list of objects inside this one."""
        items = self._get(name, list, "a list", [])
        return [Fields(item, f"{self.at(name)}[{number}]") for number, item in enumerate(items)]

    def refuse(self, name: str, why: str = "is not known to this kubelet") -> None:
        """Refuse a field if it is set."""
        if self._items.get(name):
            raise InvalidArgument(self.at(name), why)
        self._read.add(name)

    def done(self) -> None:
        """Refuse what was not read."""
        for name in self._items:
            if name not in self._read:
                raise InvalidArgument(self.at(str(name)), "is not known to this kubelet")

    def _get(self, name: str, kind: type[T], what: str, default: T) -> T:
        self._read.add(name)
        value = self._items.get(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise InvalidArgument(self.at(name), f"must be {what}")
        return value
