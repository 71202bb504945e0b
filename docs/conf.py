"""How Sphinx builds the site: `make docs`. Nothing is fetched from elsewhere, neither by the build nor by the pages.

The pages are plain Markdown, which a forge shows as well. What only Sphinx needs is added while a page is read: the navigation
(from contents.md), and captions of blocks that are files.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

from docs.tools.contents import Page, sections

project = "crishim"
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["tools"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = "crishim"
html_favicon = "pictures/icon.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_use_index = False

copybutton_prompt_text = r"[$>] "
copybutton_prompt_is_regexp = True  # of a console the commands are copied, without their output


def setup(app: Sphinx) -> None:
    """Connect what is done while a page is read."""
    app.connect("source-read", _adapt)


def _adapt(app: Sphinx, name: str, source: list[str]) -> None:
    text = re.sub(r'^( *)```(\w+) title="([^"]+)"$', r"\1```{code-block} \2\n\1:caption: \3\n", source[0], flags=re.MULTILINE)
    if name == app.config.root_doc:
        contents = Path(app.srcdir, "contents.md").read_text(encoding="utf-8")
        text += "".join(_toctree(title, pages, name) for title, pages in sections(contents).items())
    source[0] = text


def _toctree(title: str, pages: list[Page], root: str) -> str:
    names = [(page.title, page.path.removesuffix(".md")) for page in pages]
    entries = "\n".join(f"{text} <{'self' if name == root else name}>" for text, name in names)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"
