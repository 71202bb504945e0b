"""Reads the list of all pages, docs/contents.md, which is the order of the manual (pure)."""

import re
from typing import Final

import attrs

_HEAD: Final = re.compile(r"^## (.+)$")
_ENTRY: Final = re.compile(r"^- \[([^]]+)\]\(([^)]+\.md)\): (.+)$")


@attrs.frozen
class Page:
    """A page of the manual; `path` is relative to docs/, `about` is one line."""

    title: str
    path: str
    about: str


def sections(text: str) -> dict[str, list[Page]]:
    """The pages by section, in order. Raises `ValueError` for a line of a list that is not `- [title](path.md): about`."""
    found: dict[str, list[Page]] = {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            found[head[1]] = []
        elif line.startswith("-"):
            if not (entry := _ENTRY.match(line)) or not found:
                raise ValueError(f"docs/contents.md: {line}")
            found[list(found)[-1]].append(Page(*entry.groups()))
    return found
