"""Pages whose tables name tests: what survives what, and where crishim and its peers differ."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["reliability.md", "compared.md"])
def test_every_line_names_its_tests(name: str) -> None:
    """Each line of the tables names at least one test, and each test that the page names exists."""
    page = (ROOT / "docs" / name).read_text()
    heads = ("| What happens", "| event", "| Behaviour")
    lines = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(heads)]
    assert lines
    named = [re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_\w+)`", line) for line in lines]
    assert [] == [line for line, tests in zip(lines, named, strict=True) if not tests]
    missing = [test for tests in named for file, test in tests if f"def {test}(" not in (ROOT / file).read_text()]
    assert [] == missing


def test_the_comparison_has_three_runtimes_in_each_line() -> None:
    """Each line of the comparison says something of crishim and of at least one other."""
    page = (ROOT / "docs" / "compared.md").read_text()
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert {5} == {len(row) for row in cells}
    assert [] == [row for row in cells if {"-"} >= {row[1], row[2]} or row[3] in {"", "-"}]
