import pytest

from crishim.testing import fakes
from crishim.testing.conformance.suite import conformance


def test_known_weaknesses_are_attributes() -> None:
    """What a plug-in says of its exam is set on the class."""
    assert conformance(fakes.plugin.build, survives_restart=False).survives_restart is False


def test_an_unknown_attribute_is_refused() -> None:
    """A weakness that the exam does not know is refused by its name, and never passed over."""
    with pytest.raises(TypeError, match="survives_restarts is not an attribute of BackendConformance"):
        conformance(fakes.plugin.build, survives_restarts=False)
