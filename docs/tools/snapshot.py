"""The recorded public API, `tests/golden/public-api.txt`: what changed since, and whether CHANGELOG.md says so.

The file has one line for each public name with its definition, and below them the digests of the entries in the first section
of CHANGELOG.md at the time of writing. It is written anew only if each name that has changed stands in an entry whose digest
is not among them.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click

from docs.tools.public import Name, api

ROOT: Final = Path(__file__).parents[2]
SNAPSHOT: Final = ROOT / "tests" / "golden" / "public-api.txt"
CHANGELOG: Final = ROOT / "CHANGELOG.md"
REMEDY: Final = "run `make reference`, and add an entry that names it to the first section of CHANGELOG.md"
_ENTRY: Final = "entry "


def lines() -> dict[str, str]:
    """The definition of each public name, by its path."""
    return {name.path: _line(name) for name in api().names()}


def read(text: str) -> tuple[dict[str, str], frozenset[str]]:
    """A snapshot's definitions by path, and the digests of its entries."""
    rows = [line for line in text.splitlines() if line and not line.startswith("#")]
    digests = frozenset(row.removeprefix(_ENTRY) for row in rows if row.startswith(_ENTRY))
    named = [row.partition(" ") for row in rows if not row.startswith(_ENTRY)]
    return {path: definition for path, _, definition in named}, digests


def write(current: dict[str, str], changelog: str) -> str:
    """The text of a snapshot."""
    head = "# The public API, written by `make reference`; CONTRIBUTING.md says how it changes."
    rows = [f"{path} {definition}".rstrip() for path, definition in current.items()]
    return "\n".join([head, *rows, *sorted(_ENTRY + digest(entry) for entry in entries(changelog))]) + "\n"


def changes(recorded: dict[str, str], current: dict[str, str]) -> list[str]:
    """The paths that were added, removed or changed. A member of a class that came or went with it is not among them."""
    paths = [path for path in {**recorded, **current} if recorded.get(path) != current.get(path)]
    whole = {path for path in paths if path not in recorded or path not in current}
    return [path for path in paths if path.rpartition(".")[0] not in whole]


def unnamed(paths: Iterable[str], changelog: str, digests: frozenset[str]) -> list[str]:
    """Those of `paths` that no new entry of the changelog's first section names in backticks, alone or after a dot."""
    new = " ".join(entry for entry in entries(changelog) if digest(entry) not in digests)
    words = {word for code in re.findall(r"`([^`]+)`", new) for word in re.findall(r"\w+", code)}
    return [path for path in paths if path.rpartition(".")[2] not in words]


def entries(changelog: str) -> list[str]:
    """The entries of the changelog's first section, each in one line."""
    section = re.split(r"^## .*$", changelog, flags=re.MULTILINE)[1]
    return [" ".join(entry.split()) for entry in re.findall(r"^- (.*(?:\n  .*)*)", section, re.MULTILINE)]


def digest(entry: str) -> str:
    """Twelve hexadecimal digits of an entry's SHA-256."""
    return hashlib.sha256(entry.encode()).hexdigest()[:12]


def update(path: Path = SNAPSHOT, changelog: str | None = None) -> None:
    """Write the snapshot if the API has changed. Raises `click.ClickException` if the changelog does not name what has."""
    current = lines()
    text = CHANGELOG.read_text() if changelog is None else changelog
    if path.exists():
        recorded, digests = read(path.read_text())
        if missing := unnamed(changes(recorded, current), text, digests):
            raise click.ClickException(
                f"the public API has changed, and no new entry of CHANGELOG.md names {', '.join(missing)}"
            )
        if recorded == current:
            return
    path.write_text(write(current, text))
    click.echo(path)


def _line(name: Name) -> str:
    """What is recorded of a name: all that a program that uses it can depend on."""
    if name.same:
        return f"is {name.same}"
    bases = f" of {', '.join(name.bases)}" if name.bases else ""
    return f"{name.kind}{name.signature}{bases}"
