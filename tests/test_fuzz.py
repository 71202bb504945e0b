import runpy
from pathlib import Path

import pytest

FUZZ = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "fuzz" / "parsers.py"))


@pytest.mark.parametrize("target", FUZZ["TARGETS"])
def test_damaged_input_breaks_no_promise(target: str) -> None:
    """Three thousand damaged inputs for each parser: only the documented error, within the memory limits."""
    assert "3000 inputs" in FUZZ["run"](target, 3000, 7)
