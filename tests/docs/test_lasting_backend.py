"""The example of a backend over the node's keeper keeps the contract, and its containers survive a restart."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from crishim.errors import FailedPrecondition
from crishim.interfaces.backend import Backend, BackendContext
from crishim.system import SystemClock
from crishim.testing.conformance import BackendConformance

SOURCE = Path(__file__).parents[2] / "examples" / "lasting_backend.py"


def module() -> Any:
    spec = importlib.util.spec_from_file_location("lasting_backend", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class TestLastingBackend(BackendConformance):
    """It claims to survive a restart, with all exits."""

    host_network = True

    async def make_backend(self, context: BackendContext) -> Backend:
        made = module().LastingBackend(context)
        assert isinstance(made, Backend)
        return made


def test_a_program_without_a_keeper(tmp_path: Path) -> None:
    """The backend says that it needs one."""
    with pytest.raises(FailedPrecondition, match="keeper"):
        module().LastingBackend(BackendContext(state=tmp_path, runtime_state=tmp_path, clock=SystemClock()))
