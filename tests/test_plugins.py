import sys
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from crishim import plugins
from crishim.errors import Code, InvalidArgument
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.plugin import Plugin
from crishim.plugins import PluginError, build, installed, load
from crishim.system import SystemClock
from crishim.testing import fakes

GONE = "crishim_no_such_module"
MODULE = "crishim_test_plugin"


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two plug-ins are installed: the fake, and one whose module is broken."""
    known = metadata.EntryPoints(
        (
            metadata.EntryPoint("fake", "crishim.testing.fakes:plugin", plugins.GROUP),
            metadata.EntryPoint("broken", f"{GONE}:plugin", plugins.GROUP),
        )
    )
    monkeypatch.setattr(metadata, "entry_points", known.select)


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module of another package."""
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    yield module
    del sys.modules[MODULE]


def test_plugins_are_found_by_name(entries: None) -> None:
    """An installed plug-in is loaded by the name of its entry point, and all of them can be listed."""
    assert ("broken", "fake") == installed()
    assert fakes.plugin is load("fake")


def test_a_plugin_can_be_named_directly(module: types.ModuleType) -> None:
    """`package.module:attribute` needs no installation; no other attribute of the module counts."""
    mine = Plugin(build=fakes.plugin.build)
    vars(module).update(mine=mine, images=lambda _: fakes.FakeImages(), check=lambda _: (), needs_node=True)
    plugin = load(f"{MODULE}:mine")
    assert mine is plugin
    assert (None, None, False) == (plugin.images, plugin.check, plugin.needs_node)


def test_a_function_is_no_plugin(module: types.ModuleType) -> None:
    """A function that makes a backend is refused with the line that makes a plug-in of it."""
    vars(module).update(make=fakes.plugin.build)
    with pytest.raises(PluginError) as refused:
        load(f"{MODULE}:make")
    hint = "write plugin = crishim.Plugin(build=make), and name that"
    assert f"backend '{MODULE}:make': {MODULE}:make is a function, not a crishim.Plugin; {hint}" == refused.value.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "backend 'none': is not installed; installed: broken, fake"),
        ("broken", f"backend 'broken': {GONE} cannot be imported: ModuleNotFoundError: No module named {GONE!r}"),
        ("crishim.errors:nothing", "backend 'crishim.errors:nothing': crishim.errors has no nothing"),
        (
            "crishim.errors:",
            "backend 'crishim.errors:': 'crishim.errors:' is not of the form package.module:attribute",
        ),
        (":plugin", "backend ':plugin': ':plugin' is not of the form package.module:attribute"),
        (
            "crishim:__version__",
            "backend 'crishim:__version__': crishim:__version__ is a str, not a crishim.Plugin",
        ),
    ],
)
def test_what_cannot_be_loaded_is_named(entries: None, name: str, message: str) -> None:
    """A plug-in that is missing or broken is refused with its name and the reason."""
    with pytest.raises(PluginError) as refused:
        load(name)
    assert (message, Code.FAILED_PRECONDITION) == (refused.value.message, refused.value.code)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidArgument("options.x", "is not known"), "backend 'mine': options.x: is not known"),
        (OSError("no such bus"), "backend 'mine': cannot be built: OSError: no such bus"),
    ],
)
def test_what_cannot_be_built_is_named(tmp_path: Path, error: Exception, message: str) -> None:
    """Whatever a plug-in's functions raise becomes a `PluginError` with the backend's name."""

    def fail(_: BackendContext) -> None:
        raise error

    with pytest.raises(PluginError) as refused:
        build(fail, BackendContext(state=tmp_path, runtime_state=tmp_path, clock=SystemClock()), "mine")
    assert message == refused.value.message
