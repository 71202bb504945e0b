"""What benches have measured: rows of values by peer, as a table in markdown and as a picture.

Each bench writes its rows with `--json FILE`; `python -m bench` runs them all and puts the rows together. The picture is drawn
again from saved rows by `python -m bench.report ROWS.json PICTURE.svg`.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import attrs

REFERENCE: Final = "containerd"
"""The peer to which the others are compared."""

_BAR: Final = 13
_TOP: Final = 64
_LEFT: Final = 300
_SCALE: Final = 260
_WIDTH: Final = 860
_MOST: Final = 1.9
_COLOURS: Final = ("#1f6feb", "#2da44e", "#bf8700", "#8250df")


@attrs.frozen
class Row:
    """A measurement: its unit, and its value by peer. `more` marks rates, of which more is better."""

    name: str
    unit: str
    values: Mapping[str, float]
    more: bool = False

    def ratio(self, peer: str) -> float | None:
        """A peer's cost as a multiple of the reference's; of rates the inverse, so that less is better in every row."""
        mine, theirs = self.values.get(peer), self.values.get(REFERENCE)
        if not mine or not theirs:
            return None
        return theirs / mine if self.more else mine / theirs


def save(path: str, rows: Iterable[Row]) -> None:
    """Write rows to a file, unless its name is empty."""
    if path:
        Path(path).write_text(json.dumps([attrs.asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Row]:
    """The rows of a file."""
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def peers_of(rows: Iterable[Row]) -> list[str]:
    """All peers, the reference first."""
    names = dict.fromkeys(name for row in rows for name in row.values)
    return sorted(names, key=lambda name: name != REFERENCE)


def markdown(rows: list[Row]) -> str:
    """A table: each peer's value, and in brackets its cost as a multiple of the reference's."""
    peers = peers_of(rows)
    lines = ["| | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|"]
    lines += [f"| {row.name}, {row.unit} | " + " | ".join(_cell(row, peer) for peer in peers) + " |" for row in rows]
    return "\n".join(lines)


def _cell(row: Row, peer: str) -> str:
    if peer not in row.values:
        return ""
    ratio = row.ratio(peer)
    return _number(row.values[peer]) + ("" if ratio is None or peer == REFERENCE else f" ({ratio:.2f})")


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def picture(rows: list[Row]) -> str:
    """Bars as SVG: the costs of each peer as multiples of the reference's, for the rows that the reference has."""
    rows = [row for row in rows if REFERENCE in row.values]
    peers = [peer for peer in peers_of(rows) if peer != REFERENCE]
    step = 10 + (_BAR + 2) * max(2, len(peers))
    height = _TOP + step * len(rows) + 12
    one = _LEFT + _SCALE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        _text(16, 24, f"Cost as a multiple of {REFERENCE}'s in the same run; shorter is better", 15),
    ]
    for number, peer in enumerate(peers):
        x = 16 + 170 * number
        parts.append(f'<rect x="{x}" y="36" width="12" height="12" fill="{_COLOURS[number % len(_COLOURS)]}"/>')
        parts.append(_text(x + 18, 47, peer))
    for line, row in enumerate(rows):
        parts += _bars(row, peers, _TOP + step * line)
    parts.append(f'<line x1="{one}" y1="{_TOP - 8}" x2="{one}" y2="{height - 10}" stroke="#cf222e" stroke-dasharray="4 3"/>')
    parts.append(_text(one + 5, _TOP - 12, f"{REFERENCE} = 1", fill="#cf222e"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bars(row: Row, peers: list[str], top: int) -> list[str]:
    """The name of a row, and a bar for each peer with its value."""
    theirs = f"{REFERENCE} {_number(row.values[REFERENCE])} {row.unit}"
    parts = [_text(16, top + 15, row.name), _text(16, top + 31, theirs, 11, fill="#59636e")]
    for number, peer in enumerate(peer for peer in peers if row.ratio(peer) is not None):
        ratio = row.ratio(peer) or 0.0
        width, y = max(2.0, min(ratio, _MOST) * _SCALE), top + 4 + (_BAR + 2) * number
        colour = _COLOURS[peers.index(peer) % len(_COLOURS)]
        label = f"{ratio:.2f} ({_number(row.values[peer])} {row.unit})"
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>')
        if width > _SCALE * 1.4:
            parts.append(_text(_LEFT + width - 5, y + 11, label, 11, fill="#ffffff", anchor="end"))
        else:
            parts.append(_text(_LEFT + width + 5, y + 11, label, 11))
    return parts


def _text(x: float, y: float, text: str, size: int = 13, *, fill: str = "#1f2328", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}">{escape(text)}</text>'


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(picture(load(Path(sys.argv[1]))), encoding="utf-8")
