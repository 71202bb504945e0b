"""The conformance suite for backends.

The checks are plain async functions that import no test framework; each cites its sentence of the contract. With pytest:

    class TestMine(BackendConformance):
        async def make_backend(self, context: BackendContext) -> Backend:
            return MyBackend(context)

or, without any file, `pytest --crishim-backend mine.module:plugin`. Every check ends with an empty inventory. Capabilities are
checked if they are claimed; a known weakness is an attribute (`survives_restart = False`), never a skipped check.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from crishim.testing.conformance.candidate import Candidate, World
    from crishim.testing.conformance.checks import CHECKS
    from crishim.testing.conformance.programs import Fact, Programs
    from crishim.testing.conformance.suite import BackendConformance

__all__ = ["CHECKS", "BackendConformance", "Candidate", "Fact", "Programs", "World"]

_PLACES: Final = {
    "CHECKS": "checks",
    "BackendConformance": "suite",
    "Candidate": "candidate",
    "Fact": "programs",
    "Programs": "programs",
    "World": "candidate",
}
"""The module of each name, imported at its first use: pytest is needed for `BackendConformance` alone."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
