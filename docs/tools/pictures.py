"""Takes pictures of the screens of `crishim play` and `crishim check`: `python -m docs.tools.pictures`.

The commands run on this machine, on a console that records. The pictures change with times and versions: no test compares them.
"""

import io
import re
from pathlib import Path
from typing import Any, Final
from unittest import mock

import click
from rich.console import Console

from crishim.cli.main import main

ROOT: Final = Path(__file__).parents[2]
PICTURES: Final = ROOT / "docs" / "pictures"
SCREENS: Final = {
    "play": ("crishim.cli.play.Console", ["play", str(ROOT / "examples" / "hello.yaml")]),
    "check": ("crishim.cli.check.Console", ["check"]),
}
_WIDTH: Final = 110


def picture(place: str, arguments: list[str], title: str) -> str:
    """What a command shows on a terminal, as SVG."""
    recorded = Console(
        file=io.StringIO(), record=True, force_terminal=True, width=_WIDTH, highlight=False, color_system="truecolor"
    )

    def console(**_: Any) -> Console:
        return recorded

    with mock.patch(place, console):
        try:
            main.main(arguments, prog_name="crishim", standalone_mode=False)
        except SystemExit as ended:
            if ended.code not in {0, 1}:
                raise
    svg = recorded.export_svg(title=title, unique_id=f"crishim-{arguments[0]}")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # nothing is fetched by a picture


def draw() -> None:
    """Write the pictures."""
    for name, (place, arguments) in SCREENS.items():
        shown = " ".join(argument.removeprefix(f"{ROOT}/") for argument in arguments)
        (PICTURES / f"{name}.svg").write_text(picture(place, arguments, f"crishim {shown}"))
        click.echo(f"docs/pictures/{name}.svg")


if __name__ == "__main__":
    draw()
