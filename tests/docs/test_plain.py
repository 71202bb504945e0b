"""The manual as plain text has every page once, in order, without what only the site or the tests need."""

import re
import subprocess
import sys
from pathlib import Path

from docs.tools.contents import Page, sections
from docs.tools.plain import DOCS, index, text_of, whole
from tests.docs.pages import ROOT

PARTS = sections((DOCS / "contents.md").read_text())


def test_the_index_has_a_line_for_each_page() -> None:
    """A section is a heading, and a page a link to its Markdown with one line about it."""
    text = index({"Start": [Page("One", "sub/one.md", "a page")]})
    assert "\n## Start\n\n- [One](_sources/sub/one.md.txt): a page\n" in text


def test_the_whole_has_every_page_in_order() -> None:
    """Each page stands behind a line with its path, with its text and without comments."""
    text = whole(PARTS)
    assert [page.path for pages in PARTS.values() for page in pages] == re.findall(r"^=== (.*) ===$", text, re.MULTILINE)
    assert "class MinimalBackend(Backend):" in text
    assert "<!-- not run" not in text


def test_links_are_relative_to_the_docs() -> None:
    """A link means the same page from the one file as from its own; links elsewhere stay."""
    text = "[a](../b.md#c) [d](#e) [f](https://g.example/h#i) ![j](../pictures/k.svg)\n"
    assert "[a](b.md#c) [d](sub/x.md#e) [f](https://g.example/h#i) ![j](pictures/k.svg)" == text_of("sub/x.md", text)


def test_comments_for_the_tests_are_left_out() -> None:
    """A reader of the one file sees what a reader of the site sees."""
    assert "a\n\n```sh\nb\n```" == text_of("x.md", "a\n\n<!-- not run: make -->\n```sh\nb\n```\n\n<!-- prepare\nc\n-->\n")


def test_code_stays() -> None:
    """Code that looks like a link or a comment is no less code."""
    text = "`a[0](b)`\n\n```python\nrow[Q](services)  # <!-- x -->\n```"
    assert text == text_of("sub/x.md", text)


def test_the_files_are_written_into_the_site(tmp_path: Path) -> None:
    """The command of `make docs` writes both."""
    subprocess.run([sys.executable, "-m", "docs.tools.plain", tmp_path], cwd=ROOT, check=True)
    assert {"llms.txt": index(PARTS), "llms-full.txt": whole(PARTS)} == {
        path.name: path.read_text() for path in tmp_path.iterdir()
    }
