"""Pieces of drawings: boxes, arrows, text (pure).

A drawing is a white card with dark lines, so that it reads the same on light and on dark pages; it has no script, no style sheet
and no font of its own.
"""

from collections.abc import Iterable, Iterator
from html import escape

BLUE = "#3f51b5"
PALE = "#e8eaf6"
GREY = "#444444"


def card(width: int, height: int, body: Iterable[str]) -> str:
    """A whole drawing of that size in pixels, which browsers scale."""
    font = 'font-family="system-ui, sans-serif" font-size="13"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {font}>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">',
        f'<path d="M0 0 10 5 0 10z" fill="{BLUE}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff" rx="8"/>',
    )
    return "\n".join([*head, *body, "</svg>"]) + "\n"


def words(
    x: int, y: int, content: str, *, anchor: str = "start", size: int = 13, bold: bool = False, fill: str = "#000000"
) -> str:
    """A line of text whose base is at `y`."""
    style = f' font-size="{size}"' if size != 13 else ""
    style += ' font-weight="bold"' if bold else ""
    style += f' fill="{fill}"' if fill != "#000000" else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{style}>{escape(content)}</text>'


def box(x: int, y: int, width: int, height: int, head: str, *lines: str) -> Iterator[str]:
    """A box with its upper left corner at `x`, `y`: a bold line, and others below it, all in its middle."""
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{PALE}" stroke="{BLUE}"/>'
    first = y + (height - 17 * (1 + len(lines))) // 2 + 13
    yield words(x + width // 2, first, head, anchor="middle", bold=True)
    for number, line in enumerate(lines, 1):
        yield words(x + width // 2, first + 17 * number, line, anchor="middle", size=12, fill=GREY)


def arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    """A line with a tip at its end."""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{BLUE}" stroke-width="1.6" marker-end="url(#tip)"/>'
