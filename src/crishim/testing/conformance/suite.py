"""The exam as a pytest class."""

import pytest

from crishim.interfaces.plugin import Plugin
from crishim.testing.conformance.checks import CHECKS
from crishim.testing.conformance.examination import Examination, attributes_of
from crishim.testing.conformance.examine import Check, Grade, Restart, name_of

__all__ = ["BackendConformance", "exam"]


class BackendConformance(Examination):
    """Inherit, and implement the construction of the backend. The other attributes are its programs and known weaknesses."""

    @pytest.mark.parametrize("check", CHECKS, ids=name_of)
    def test_contract(self, check: Check | Restart) -> None:
        """The backend fulfils one sentence of its contract, and leaves nothing behind."""
        result = self.grade(check)
        if result.grade is Grade.LEFT_OUT:
            pytest.skip(result.reason)


def exam(plugin: Plugin) -> type[BackendConformance]:
    """The exam of a plug-in's backend, for pytest. Raises `TypeError` for an unknown attribute in `Plugin.exam`."""
    return type("TestBackend", (BackendConformance,), attributes_of(plugin))
