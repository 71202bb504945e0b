from typing import Any

import pytest

import crishim
from crishim.interfaces.plugin import Plugin
from crishim.testing import fakes

build = fakes.plugin.build


def test_only_build_is_required() -> None:
    """A plug-in with a backend alone has no images, checks nothing, does not say what it ignores, and needs no node."""
    plugin = crishim.Plugin(build=build)
    assert (build, None, None, False) == (plugin.build, plugin.images, plugin.check, plugin.needs_node)
    assert plugin.supported is None
    assert (None, {}) == (plugin.ignores, dict(plugin.exam))


def test_tables_are_copied() -> None:
    """A later change of a table does not change the plug-in."""
    table = {"PodSandboxConfig.hostname": "has none"}
    plugin = Plugin(build=build, ignores=table, exam=table)
    table.clear()
    assert (1, 1) == (len(plugin.ignores or ()), len(plugin.exam))


@pytest.mark.parametrize(
    ("field", "value"),
    [("build", 1), ("images", 1), ("check", ()), ("ignores", 1), ("supported", ()), ("needs_node", 1), ("exam", 1)],
)
def test_a_wrong_type_is_refused(field: str, value: Any) -> None:
    """A field of another type raises `TypeError` where the plug-in is written, not where it is used."""
    with pytest.raises(TypeError):
        Plugin(**{"build": build, field: value})
