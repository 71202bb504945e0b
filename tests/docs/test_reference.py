"""Pages and drawings that are written from the code say what the code says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from crishim.interfaces.capabilities import ALL
from crishim.lifecycle.states import CONTAINER, SANDBOX
from docs.tools import lifecycle, reference

PAGES = reference.pages()


@pytest.mark.parametrize("name", PAGES)
def test_it_is_what_the_code_says(name: str) -> None:
    """The file is what `make reference` writes."""
    assert PAGES[name] == (reference.DOCS / name).read_text()


def test_every_verb_and_capability_is_there() -> None:
    """The contract names ten verbs of a backend, and the capabilities their calls."""
    verbs = re.findall(r"^\*\*`async (\w+)", PAGES["reference/contract.md"].partition("## What goes with it")[0], re.MULTILINE)
    assert 10 == len(verbs)
    assert {kind.__name__ for kind in ALL} == set(
        re.findall(r"^## (Supports\w+)$", PAGES["reference/capabilities.md"], re.MULTILINE)
    )


def test_drawings_have_every_transition() -> None:
    """Each act of the tables stands on an arrow or in a box, and each state has a box."""
    for drawing, table in ((lifecycle.container_svg(), CONTAINER), (lifecycle.sandbox_svg(), SANDBOX)):
        texts = re.findall(r">([^<>]+)</text>", drawing)
        words = {word.removeprefix("begins: ") for text in texts for word in text.split(", ")}
        assert words == {act.value for _, act in table} | {state.name for state in table.values()}


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man: apt-get install man-db")
def test_the_man_page_has_no_mistakes() -> None:
    """Man reads the page without a warning, and shows the commands."""
    page = Path(reference.DOCS / "crishim.1")
    done = subprocess.run(
        ["man", "--warnings", "-l", str(page)], capture_output=True, text=True, check=False, env={"MANWIDTH": "100"}
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert "crishim play" in done.stdout
