"""The construction of an exam from a plug-in."""

from pathlib import Path

import pytest

from crishim.interfaces.plugin import Plugin
from crishim.oci.facts import Host
from crishim.pods.host import host
from crishim.testing import fakes
from crishim.testing.conformance.examination import Examination, attributes_of


def test_known_weaknesses_are_attributes() -> None:
    """What a plug-in says of its exam, that it needs a node, and what it ignores is set on the class."""
    plugin = Plugin(build=fakes.plugin.build, needs_node=True, ignores={"a": "b"}, exam={"survives_restart": False})
    attributes = attributes_of(plugin)
    assert (False, True, {"a": "b"}) == tuple(attributes[name] for name in ("survives_restart", "needs_node", "ignores"))


def test_the_machine_of_the_containers(tmp_path: Path) -> None:
    """A plug-in whose containers run on another machine states which; without it the machine is this one."""
    guest = Host(hostname="guest")
    stated, plain = (
        type("Exam", (Examination,), attributes_of(Plugin(build=fakes.plugin.build, exam=exam)))()
        for exam in ({"node": guest}, {})
    )
    assert (guest, host()) == (stated.candidate(tmp_path).node, plain.candidate(tmp_path).node)


def test_an_unknown_attribute_is_refused() -> None:
    """A weakness that the exam does not know is refused by its name, and never passed over."""
    with pytest.raises(TypeError, match="survives_restarts is not an attribute of BackendConformance"):
        attributes_of(Plugin(build=fakes.plugin.build, exam={"survives_restarts": False}))
