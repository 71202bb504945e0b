"""The backend of docs/writing-a-backend.md: the page holds the file, and the file passes the exam."""

import re
from pathlib import Path
from typing import ClassVar

from crishim.interfaces.backend import Backend, BackendContext
from crishim.testing.conformance import BackendConformance
from tests.examples import load_example

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "minimal_backend.py"


class TestMinimal(BackendConformance):
    """The small backend keeps the contract; its children end with it, so it does not outlive a restart."""

    survives_restart: ClassVar[bool] = False

    async def make_backend(self, context: BackendContext) -> Backend:
        backend: Backend = load_example("minimal_backend").plugin.build(context)
        return backend


def test_page_holds_the_file() -> None:
    """The page shows the tested file, whole and unchanged."""
    page = (ROOT / "docs" / "writing-a-backend.md").read_text()
    blocks = re.findall(r"```python title=\"minimal_backend.py\"\n(.*?)```", page, re.DOTALL)
    assert [SOURCE.read_text()] == blocks


def test_readme_holds_the_class() -> None:
    """The README shows the tested class, whole and unchanged."""
    body = "class MinimalBackend" + SOURCE.read_text().split("class MinimalBackend")[1].split("\n\nplugin = ")[0].rstrip()
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert body + "\n" in blocks


def test_it_is_short() -> None:
    """The verbs take about sixty lines of code."""
    body = SOURCE.read_text().split("class MinimalBackend")[1].split("plugin = ")[0]
    assert len([line for line in body.splitlines() if line.strip()]) < 75
