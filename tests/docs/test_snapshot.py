"""The recorded public API: nothing public changes without an entry in CHANGELOG.md."""

from pathlib import Path

import click
import pytest

from docs.tools import snapshot

CHANGELOG = """# Changelog

## 0.2.0 (not released)

- An entry
  of two lines names `Backend.probe`.
- Another names `crishim.NotFound(kind, id)`.

## 0.1.0

- `Old` is gone.
"""
ENTRIES = [
    "An entry of two lines names `Backend.probe`.",
    "Another names `crishim.NotFound(kind, id)`.",
]


def test_the_public_api_is_the_recorded_one() -> None:
    """What the code has is what was recorded when CHANGELOG.md last said that it changed."""
    recorded, _ = snapshot.read(snapshot.SNAPSHOT.read_text())
    changed = snapshot.changes(recorded, snapshot.lines())
    assert [] == changed, f"the public API has changed: {snapshot.REMEDY}"


def test_a_snapshot_is_read_as_it_was_written() -> None:
    """Definitions and the digests of entries survive the file."""
    current = {"crishim.A": "class(*, a=1) of Protocol", "crishim.A.a": "value: int = 1", "crishim.m": "module"}
    recorded, digests = snapshot.read(snapshot.write(current, CHANGELOG))
    assert (current, {snapshot.digest(entry) for entry in ENTRIES}) == (recorded, set(digests))


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        ({"A": "class()", "A.b": "function()"}, []),
        ({"A": "class()", "A.b": "function(c)"}, ["A.b"]),
        ({"A": "class()"}, ["A.b"]),
        ({}, ["A"]),
        ({"A": "class()", "A.b": "function()", "C": "class()", "C.d": "function()"}, ["C"]),
    ],
)
def test_changes(current: dict[str, str], expected: list[str]) -> None:
    """A changed, removed or added name is a change; the members of a class come and go with it."""
    assert expected == snapshot.changes({"A": "class()", "A.b": "function()"}, current)


def test_only_a_new_entry_counts() -> None:
    """A name must stand in backticks in an entry of the first section that is newer than the record."""
    paths = ["crishim.Backend.probe", "crishim.NotFound", "crishim.Old"]
    assert ["crishim.Old"] == snapshot.unnamed(paths, CHANGELOG, frozenset())
    recorded = frozenset({snapshot.digest(ENTRIES[0])})
    assert ["crishim.Backend.probe", "crishim.Old"] == snapshot.unnamed(paths, CHANGELOG, recorded)


def test_the_section_of_the_next_version_is_read() -> None:
    """Entries may have several lines, and those of released versions do not count."""
    assert ENTRIES == snapshot.entries(CHANGELOG)


def test_a_change_without_an_entry_is_refused(tmp_path: Path) -> None:
    """The record is written anew only when a new entry names what has changed."""
    path = tmp_path / "public-api.txt"
    before = {**snapshot.lines(), "crishim.Backend.probe": "function()"}
    path.write_text(snapshot.write(before, "## Next\n\n- `probe` is new.\n"))
    with pytest.raises(click.ClickException, match=r"names crishim\.Backend\.probe$"):
        snapshot.update(path, "## Next\n\n- `probe` is new.\n")
    snapshot.update(path, "## Next\n\n- `probe` is new.\n- `Backend.probe` is async.\n")
    assert snapshot.lines() == snapshot.read(path.read_text())[0]
