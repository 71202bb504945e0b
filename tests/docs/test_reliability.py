"""The page of what survives what: each promise names a test that there is."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_promise_names_its_tests() -> None:
    """Each line of the tables names at least one test, and each test that the page names exists."""
    page = (ROOT / "docs" / "reliability.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| event")]
    named = [re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_\w+)`", line) for line in lines]
    assert [] == [line for line, tests in zip(lines, named, strict=True) if not tests]
    missing = [test for tests in named for file, test in tests if f"def {test}(" not in (ROOT / file).read_text()]
    assert [] == missing
