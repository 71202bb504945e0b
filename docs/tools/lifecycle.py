"""Draws the two state machines of `crishim.lifecycle.states` (pure: tables in, SVG out)."""

import math
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from crishim.lifecycle.states import CONTAINER, SANDBOX
from crishim.model.container import ContainerState
from crishim.model.sandbox import PodSandboxState
from docs.tools import svg

_WIDTH: Final = 190
_LINE: Final = 16


@attrs.frozen
class Drawing:
    """Where the states stand (the middles of their boxes), and how far along its arrow a label stands, if not half-way."""

    width: int
    height: int
    places: Mapping[Any, tuple[int, int]]
    labels: Mapping[tuple[Any, Any], float] = attrs.field(factory=dict)


CONTAINER_DRAWING: Final = Drawing(
    960,
    420,
    {
        ContainerState.CREATED: (125, 210),
        ContainerState.RUNNING: (480, 85),
        ContainerState.UNKNOWN: (480, 345),
        ContainerState.EXITED: (835, 210),
    },
    {(ContainerState.CREATED, ContainerState.EXITED): 0.25},
)
SANDBOX_DRAWING: Final = Drawing(960, 150, {PodSandboxState.READY: (200, 75), PodSandboxState.NOTREADY: (760, 75)})


def container_svg() -> str:
    """The lifecycle of a container."""
    return _svg(CONTAINER, CONTAINER_DRAWING)


def sandbox_svg() -> str:
    """The lifecycle of a sandbox."""
    return _svg(SANDBOX, SANDBOX_DRAWING)


def _svg(table: Mapping[tuple[Any, Any], Any], drawing: Drawing) -> str:
    return svg.card(drawing.width, drawing.height, _body(table, drawing))


def _body(table: Mapping[tuple[Any, Any], Any], drawing: Drawing) -> Iterator[str]:
    moves: dict[tuple[Any, Any], list[str]] = {}
    for (before, act), after in table.items():
        moves.setdefault((before, after), []).append(act.value)
    first = {state: [f"begins: {act}" for act in moves.get((None, state), [])] for state in drawing.places}
    boxes = {state: _inside(state, [*first[state], *moves.get((state, state), [])]) for state in drawing.places}
    arrows = [
        _arrow(drawing, boxes, before, after, acts, bent=(after, before) in moves)
        for (before, after), acts in moves.items()
        if before is not None and before is not after
    ]
    yield from (line for line, _ in arrows)
    yield from (label for _, label in arrows)
    for state, lines in boxes.items():
        yield from _box(drawing.places[state], lines)


def _inside(state: Enum, stays: list[str]) -> list[str]:
    lines = [state.name]
    for act in stays:
        if len(lines) > 1 and len(lines[-1]) + len(act) < 24:
            lines[-1] += f", {act}"
        else:
            lines.append(act)
    return lines


def _box(place: tuple[int, int], lines: list[str]) -> Iterator[str]:
    x, y = place
    height = _height(lines)
    yield (
        f'<rect x="{x - _WIDTH // 2}" y="{y - height // 2}" width="{_WIDTH}" height="{height}" rx="10"'
        ' fill="#e8eaf6" stroke="#3f51b5"/>'
    )
    for number, line in enumerate(lines):
        style = ' font-weight="bold" font-size="15"' if number == 0 else ' fill="#444444"'
        yield f'<text x="{x}" y="{y - height // 2 + 24 + number * _LINE}" text-anchor="middle"{style}>{line}</text>'


def _height(lines: list[str]) -> int:
    return 20 + _LINE * len(lines) + 4


def _arrow(
    drawing: Drawing, boxes: Mapping[Any, list[str]], before: Any, after: Any, acts: list[str], *, bent: bool
) -> tuple[str, str]:
    """A line from box to box, a little to its right where another one comes back, and its label."""
    (x1, y1), (x2, y2) = drawing.places[before], drawing.places[after]
    length = math.hypot(x2 - x1, y2 - y1)
    aside = 24 if bent else 0
    dx, dy = -(y2 - y1) / length * aside, (x2 - x1) / length * aside
    start = _edge((x1, y1), (x2, y2), boxes[before])
    end = _edge((x2, y2), (x1, y1), boxes[after])
    x1, y1, x2, y2 = round(start[0] + dx), round(start[1] + dy), round(end[0] + dx), round(end[1] + dy)
    line = svg.arrow(x1, y1, x2, y2)
    share = drawing.labels.get((before, after), 0.5)
    x, y, text = round(x1 + (x2 - x1) * share), round(y1 + (y2 - y1) * share), ", ".join(acts)
    width = 7 * len(text) + 8
    label = (
        f'<rect x="{x - width // 2}" y="{y - 10}" width="{width}" height="20" fill="#ffffff"/>'
        f'<text x="{x}" y="{y + 4}" text-anchor="middle">{text}</text>'
    )
    return line, label


def _edge(place: tuple[int, int], towards: tuple[int, int], lines: list[str]) -> tuple[float, float]:
    """Where a line from the middle of a box leaves it."""
    dx, dy = towards[0] - place[0], towards[1] - place[1]
    half = _height(lines) / 2
    share = min(_WIDTH / 2 / abs(dx) if dx else math.inf, half / abs(dy) if dy else math.inf)
    return place[0] + dx * share, place[1] + dy * share
