"""The images of a store and their names (pure; `store` writes the file).

An image's id is its configuration's digest. Tags and repo digests are names, and each names one image at a time: a tag that
was pushed again moves. Removing an image by any of its names removes all of them (CRI, RemoveImage).
"""

import fnmatch
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from crishim.errors import DataLoss, InvalidArgument
from crishim.images.reference import Reference, id_prefix, parse
from crishim.model.image import Image
from crishim.model.values import ImageId

VERSION: Final = 1


@attrs.frozen(kw_only=True)
class ImageEntry:
    """A stored image. `blobs` are digests of everything that was transferred, including `manifest` and the configuration,
    `id`; `layers` are chain ids from the bottom to the top; `size` is bytes as transferred.
    """

    id: ImageId
    manifest: str
    blobs: tuple[str, ...]
    layers: tuple[str, ...]
    size: int
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


Table = Mapping[ImageId, ImageEntry]


def named(table: Table, entry: ImageEntry, reference: Reference, digest: str) -> dict[ImageId, ImageEntry]:
    """The table with an image that was just pulled by `reference`, which has `digest` in its registry.

    A pull by digest adds no tag. The image keeps its names; other images lose a tag that now belongs to this one.
    """
    tag = "" if reference.digest else str(reference)
    known = table.get(entry.id)
    tags = dict.fromkeys(known.tags if known else ())
    digests = dict.fromkeys((*(known.digests if known else ()), f"{reference.repository}@{digest}"))
    blobs = dict.fromkeys((*entry.blobs, *(known.blobs if known else ())))
    others = {
        key: attrs.evolve(other, tags=tuple(name for name in other.tags if name != tag))
        for key, other in table.items()
        if key != entry.id
    }
    if tag:
        tags[tag] = None
    return {**others, entry.id: attrs.evolve(entry, tags=tuple(tags), digests=tuple(digests), blobs=tuple(blobs))}


def find(table: Table, text: str) -> ImageEntry | None:
    """The image that a string names: by id, tag, digest reference, or a unique prefix of an id."""
    if text in table:
        return table[ImageId(text)]
    try:
        name = str(parse(text))
    except InvalidArgument:
        name = ""
    for entry in table.values():
        if name and (name in entry.tags or name in entry.digests):
            return entry
    prefix = id_prefix(text)
    matches = [entry for key, entry in table.items() if prefix and key.startswith(prefix)]
    return matches[0] if len(matches) == 1 else None


_DIGITS: Final = 10
"""Digits of the largest valid id; a longer number is shown as a name, and no container can run as it."""


def pinned(entry: ImageEntry, patterns: Iterable[str]) -> bool:
    """Whether an image must not be garbage-collected: a pattern with `*` and `?` matches one of its names."""
    names = (entry.id, *entry.tags, *entry.digests)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def shown(entry: ImageEntry, user: str, *, is_pinned: bool) -> Image:
    """An image as lists show it. `user` is the configuration's; its number or its name is shown, without the group."""
    name = user.partition(":")[0]
    number = int(name) if name.isascii() and name.isdigit() and len(name) <= _DIGITS else None
    return Image(
        id=entry.id,
        repo_tags=entry.tags,
        repo_digests=entry.digests,
        size=entry.size,
        uid=number,
        username="" if number is not None else name,
        pinned=is_pinned,
    )


def dump(table: Table) -> bytes:
    """The table as the bytes of its file."""
    return json.dumps({"version": VERSION, "images": [attrs.asdict(entry) for entry in table.values()]}, indent=1).encode()


def load(data: bytes) -> dict[ImageId, ImageEntry]:
    """The table from the bytes of its file. Raises `DataLoss`."""
    try:
        top = json.loads(data)
        if top["version"] != VERSION:
            raise DataLoss(f"the index of images is of version {top['version']}, and this crishim reads {VERSION}")
        entries = [_entry(item) for item in top["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataLoss(f"the index of images is broken: {type(error).__name__} {error}") from error
    return {entry.id: entry for entry in entries}


def _entry(item: dict[str, Any]) -> ImageEntry:
    return ImageEntry(
        id=ImageId(item["id"]),
        manifest=item["manifest"],
        blobs=tuple(item["blobs"]),
        layers=tuple(item["layers"]),
        size=item["size"],
        tags=tuple(item["tags"]),
        digests=tuple(item["digests"]),
    )
