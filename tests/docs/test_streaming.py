"""The code of docs/streaming.md runs."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "streaming.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block: str) -> None:
    """A block of code on the page runs, and what it asserts holds."""
    exec(compile(block, "docs/streaming.md", "exec"), {"__name__": "page"})
