import sys
import types
from importlib import metadata

import pytest

from crishim import plugins
from crishim.errors import Code
from crishim.plugins import PluginError, installed, load
from crishim.testing import fakes

GONE = "crishim_no_such_module"


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two plug-ins are installed: the fake, and one whose module is broken."""
    known = metadata.EntryPoints(
        (
            metadata.EntryPoint("fake", "crishim.testing.fakes:build", plugins.GROUP),
            metadata.EntryPoint("broken", f"{GONE}:build", plugins.GROUP),
        )
    )
    monkeypatch.setattr(metadata, "entry_points", known.select)


def test_plugins_are_found_by_name(entries: None) -> None:
    """An installed plug-in is loaded by the name of its entry point, and all of them can be listed."""
    assert ("broken", "fake") == installed()
    plugin = load("fake")
    assert (fakes.build, None, None) == (plugin.build, plugin.images, plugin.check)


def test_a_function_can_be_named_directly() -> None:
    """`package.module:function` needs no installation; `images` and `check` beside it are taken along."""
    module = types.ModuleType("crishim_test_plugin")
    vars(module).update(make=fakes.build, images=lambda _: fakes.FakeImages(), check=lambda: ())
    sys.modules[module.__name__] = module
    try:
        plugin = load("crishim_test_plugin:make")
    finally:
        del sys.modules[module.__name__]
    assert (fakes.build, module.images, module.check) == (plugin.build, plugin.images, plugin.check)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "backend 'none': is not installed; installed: broken, fake"),
        ("broken", f"backend 'broken': {GONE} cannot be imported: ModuleNotFoundError: No module named {GONE!r}"),
        ("crishim.errors:nothing", "backend 'crishim.errors:nothing': crishim.errors has no function nothing"),
        ("crishim.errors:", "backend 'crishim.errors:': crishim.errors has no function (none was named)"),
        ("crishim:__version__", "backend 'crishim:__version__': crishim.__version__ is no function"),
    ],
)
def test_what_cannot_be_loaded_is_named(entries: None, name: str, message: str) -> None:
    """A plug-in that is missing or broken is refused with its name and the reason."""
    with pytest.raises(PluginError) as refused:
        load(name)
    assert (message, Code.FAILED_PRECONDITION) == (refused.value.message, refused.value.code)
