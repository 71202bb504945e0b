"""Builds list responses from cached encoded items.

On the wire a repeated field is its items one after the other, each preceded by the field's key and its length (protobuf's
encoding, "repeated elements"). So a response that consists of one list is the concatenation of its items' bytes, and an
unchanged item need not be encoded again. The kubelet lists everything once a second, and few items change.

A streamed list is the same bytes in several messages: each has at least one item, an empty list has no message. An item that
protobuf cannot encode is left out and logged: the kubelet needs the others.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

from google.protobuf.message import EncodeError, Message

from crishim.model.values import Versioned

BATCH_BYTES: Final = 1 << 20
"""The size to which a streamed message grows: far below the 16 MiB that clients accept."""

_KEEP_AT_LEAST: Final = 1024
_MAX_LOGGED: Final = 1024
_MAX_MESSAGES: Final = 4096
_LENGTH_DELIMITED: Final = 2

_log = logging.getLogger(__name__)


class HasId(Protocol):
    """An item of a list."""

    @property
    def id(self) -> str:
        """The id by which encoded items are cached."""


T = TypeVar("T")
Item = TypeVar("Item", bound=HasId)


def varint(number: int) -> bytes:
    """A protobuf varint, not negative."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field_item(field_number: int, message: Message) -> bytes:
    """A message as one item of the repeated field with this number."""
    data = message.SerializeToString()
    return b"".join((varint(field_number << 3 | _LENGTH_DELIMITED), varint(len(data)), data))


def batches(parts: Iterable[bytes], limit: int = BATCH_BYTES) -> Iterator[bytes]:
    """Concatenate items to messages of at most `limit` bytes; a longer item has a message of its own."""
    batch: list[bytes] = []
    size = 0
    for part in parts:
        if batch and size + len(part) > limit:
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(part)
        size += len(part)
    if batch:
        yield b"".join(batch)


class ListedItems(Generic[T]):
    """The items of one repeated field, encoded anew for each list.

    Constructed with the field's number and the items' encoder. An item that cannot be encoded is logged once.
    """

    def __init__(self, field_number: int, encode: Callable[[T], Message]) -> None:
        self._field_number = field_number
        self._encode = encode
        self._logged: set[str] = set()

    def part(self, item: T) -> bytes:
        """One item's bytes; empty if it cannot be encoded."""
        try:
            return field_item(self._field_number, self._encode(item))
        except (ValueError, TypeError, OverflowError, EncodeError) as error:
            self._log_once(f"{ascii(item)[:200]} cannot be encoded and is left out of lists: {ascii(str(error))[:200]}")
            return b""

    def join(self, items: Iterable[T]) -> bytes:
        """The response that consists of these items."""
        return b"".join(map(self.part, items))

    def batches(self, items: Iterable[T], limit: int = BATCH_BYTES) -> Iterator[bytes]:
        """The same list as a stream of messages."""
        return batches(filter(None, map(self.part, items)), limit)

    def _log_once(self, message: str) -> None:
        if message in self._logged:
            return
        if len(self._logged) >= _MAX_LOGGED:
            self._logged.clear()
        self._logged.add(message)
        _log.error("%s", message)


class EncodedMessages(Generic[Item]):
    """Messages cached encoded by id, each as long as its object stays the same. At most a few thousand are cached."""

    def __init__(self, encode: Callable[[Item], Message]) -> None:
        self._encode = encode
        self._cached: dict[str, tuple[Item, bytes]] = {}

    def field(self, field_number: int, item: Item) -> bytes:
        """The message as the field with this number."""
        entry = self._cached.get(item.id)
        if entry is None or entry[0] is not item:
            if len(self._cached) >= _MAX_MESSAGES:
                self._cached.clear()
            entry = self._cached[item.id] = item, self._encode(item).SerializeToString()
        data = entry[1]
        return b"".join((varint(field_number << 3 | _LENGTH_DELIMITED), varint(len(data)), data))


class EncodedItems(Generic[Item]):
    """The items of one repeated field, cached encoded by id and version.

    Constructed with the field's number and the items' encoder. The cache is limited to twice the longest recent list (and a
    thousand items): when it grows beyond that, items that are not in the current list are dropped. Not thread-safe.
    """

    def __init__(self, field_number: int, encode: Callable[[Item], Message]) -> None:
        self._items = ListedItems(field_number, encode)
        self._cached: dict[str, tuple[int, bytes]] = {}
        self._bound = _KEEP_AT_LEAST
        self._joined: tuple[Versioned[Item], ...] | None = None
        self._join = b""

    def __len__(self) -> int:
        return len(self._cached)

    def parts(self, items: Sequence[Versioned[Item]]) -> list[bytes]:
        """The items' bytes, in their order."""
        cached = self._cached
        parts = []
        for versioned in items:
            item = versioned.item
            entry = cached.get(item.id)
            if entry is None or entry[0] != versioned.version:
                entry = cached[item.id] = versioned.version, self._items.part(item)
            if entry[1]:
                parts.append(entry[1])
        if len(cached) > self._bound:
            self._cached = {versioned.item.id: cached[versioned.item.id] for versioned in items}
            self._bound = max(_KEEP_AT_LEAST, 2 * len(items))
        return parts

    def join(self, items: Sequence[Versioned[Item]]) -> bytes:
        """The response that consists of these items. The result for the last tuple is cached."""
        if items is not self._joined:
            joined = b"".join(self.parts(items))
            if not isinstance(items, tuple):
                return joined
            self._joined, self._join = items, joined
        return self._join

    def batches(self, items: Sequence[Versioned[Item]], limit: int = BATCH_BYTES) -> Iterator[bytes]:
        """The same list as a stream of messages."""
        return batches(self.parts(items), limit)
