"""The site is complete, and its build refuses what a reader could not follow."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from docs.tools.contents import sections
from tests.docs.pages import ROOT

CONTENTS: Final = (ROOT / "docs" / "contents.md").read_text()
SMALL: Final = {
    "index.md": "# Home\n\n[One](sub/one.md#a-part)\n",
    "contents.md": "# All\n\n## Start\n\n- [Home](index.md): it\n- [All](contents.md): this\n- [One](sub/one.md): a page\n",
    "sub/one.md": '# One\n\n## A part\n\n[Back](../index.md)\n\n```python title="a.py"\nimport os\n```\n',
}
"""A manual of three pages."""


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """The command of `make docs`, on another folder."""
    words = ["--builder", "html", "--fresh-env", "--fail-on-warning", "--quiet", "--conf-dir", str(ROOT / "docs")]
    command = [sys.executable, "-m", "sphinx", *words, "--doctree-dir", str(target / ".doctrees"), str(source), str(target)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def small(folder: Path, changed: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for name, text in {**SMALL, **changed}.items():
        path = folder / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return build(folder / "docs", folder / "site")


def test_a_page_has_its_place_and_its_files(tmp_path: Path) -> None:
    """Each page has the navigation, a block that is a file has its name, and nothing is loaded from elsewhere."""
    done = small(tmp_path, {})
    assert (0, "") == (done.returncode, done.stdout + done.stderr)
    page = (tmp_path / "site" / "sub" / "one.html").read_text()
    assert {"../index.html", "../contents.html", "#"} <= set(re.findall(r'class="reference internal" href="([^"]*)"', page))
    assert "a.py" in page
    assert [] == re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="(?:https?:)?//[^"]*"', page)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("index.md", lambda text: text + "\n[two](two.md)\n", "two.md"),
        ("index.md", lambda text: text.replace("#a-part", "#a-whole"), "a-whole"),
        ("sub/one.md", lambda text: text + "\n[here](#nothing)\n", "nothing"),
        ("sub/one.md", lambda text: text + "\n![a picture](no.svg)\n", "no.svg"),
        ("sub/two.md", lambda text: "# Two\n", "sub/two.md"),
        ("contents.md", lambda text: text + "- [Two](two.md): gone\n", "two"),
    ],
    ids=["a link", "an anchor", "an anchor of the page", "a picture", "a page in no navigation", "a page that is gone"],
)
def test_the_build_refuses(tmp_path: Path, name: str, change: Callable[[str], str], named: str) -> None:
    """A link, an anchor or a picture that leads nowhere, or a page without a place, fails the build by name."""
    done = small(tmp_path, {name: change(SMALL.get(name, ""))})
    assert 0 != done.returncode
    assert named in done.stderr


def test_the_list_of_all_pages_has_all_pages() -> None:
    """Each page under docs/ is listed once."""
    listed = [page.path for pages in sections(CONTENTS).values() for page in pages]
    assert sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")) == sorted(listed)


def test_a_line_without_a_page_is_refused() -> None:
    """A list item that is no page is an error with its text."""
    with pytest.raises(ValueError, match="only words"):
        sections("## Start\n- only words\n")
