"""Writes the manual as plain text for tools: `python -m docs.tools.plain FOLDER`, after the site was built there.

`llms.txt` has one line for each page, with a link to its Markdown; `llms-full.txt` has all pages in the order of docs/contents.md.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Final

from docs.tools.contents import Page, sections

DOCS: Final = Path(__file__).parents[1]
_PIECE: Final = re.compile(
    r"(?P<code>^(?P<indent> *)```.*?^(?P=indent)```$|`[^`\n]*`)"
    r"|^ *<!--.*?-->\n+"
    r"|\]\((?P<link>(?![a-z]+:)[^)\s]+)\)",
    re.DOTALL | re.MULTILINE,
)
"""What is not copied as it is: comments go, links change, and code, which may look like either, stays."""
_SUMMARY: Final = (
    "CRI requests mapped onto a ten-verb backend: a Python library and program between the kubelet and container engines."
)


def index(parts: dict[str, list[Page]]) -> str:
    """The form of llmstxt.org: a title, a summary, and lists of links below headings."""
    lines = ["# crishim", "", f"> {_SUMMARY}", "", "All pages in one file: [llms-full.txt](llms-full.txt)"]
    for title, pages in parts.items():
        lines += ["", f"## {title}", ""]
        lines += [f"- [{page.title}](_sources/{page.path}.txt): {page.about}" for page in pages]
    return "\n".join(lines) + "\n"


def whole(parts: dict[str, list[Page]]) -> str:
    """Every page behind a line with its path; links are relative to docs/, and comments for the tests are left out."""
    pages = [page.path for each in parts.values() for page in each]
    return "\n\n".join(f"=== {path} ===\n\n{text_of(path, (DOCS / path).read_text(encoding='utf-8'))}" for path in pages) + "\n"


def text_of(path: str, text: str) -> str:
    """A page as it stands in the one file."""

    def piece(found: re.Match[str]) -> str:
        if found["link"] is None:
            return found["code"] or ""
        target, _, anchor = found["link"].partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path
        return f"]({place}{anchor and '#' + anchor})"

    return _PIECE.sub(piece, text).strip()


def main() -> None:
    """Write both files into the folder that the command line names."""
    folder = Path(sys.argv[1])
    parts = sections((DOCS / "contents.md").read_text(encoding="utf-8"))
    (folder / "llms.txt").write_text(index(parts), encoding="utf-8")
    (folder / "llms-full.txt").write_text(whole(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
