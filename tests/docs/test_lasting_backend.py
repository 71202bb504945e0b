"""The example of a backend over the node's keeper keeps the contract, and its containers survive a restart."""

from pathlib import Path

import pytest

from crishim.errors import FailedPrecondition
from crishim.interfaces.backend import Backend, BackendContext
from crishim.system import SystemClock
from crishim.testing.conformance import BackendConformance
from tests.examples import load_example


class TestLastingBackend(BackendConformance):
    """It claims to survive a restart, with all exits."""

    host_network = True

    async def make_backend(self, context: BackendContext) -> Backend:
        made = load_example("lasting_backend").LastingBackend(context)
        assert isinstance(made, Backend)
        return made


def test_a_program_without_a_keeper(tmp_path: Path) -> None:
    """The backend says that it needs one."""
    with pytest.raises(FailedPrecondition, match="keeper"):
        load_example("lasting_backend").LastingBackend(
            BackendContext(state=tmp_path, runtime_state=tmp_path, clock=SystemClock())
        )
