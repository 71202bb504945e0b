"""The pytest plug-in: `pytest --crishim-backend package.module:plugin` tests a backend without any test file.

It imports nothing of crishim until the option is used, since pytest loads it wherever crishim is installed.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from crishim.interfaces.plugin import Plugin

_chosen: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    group = parser.getgroup("crishim")
    group.addoption(
        "--crishim-backend",
        metavar="PLUGIN",
        help="run crishim's conformance suite on the backend of a crishim.Plugin, named as package.module:attribute or by its "
        "entry point, and nothing else unless files are named",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect the suite if the option is given."""
    chosen = config.getoption("--crishim-backend")
    if chosen:
        _chosen[:] = [chosen]
        named = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
        config.args = [*named, str(Path(__file__).with_name("exam.py"))]


def chosen_plugin() -> "Plugin":
    """The plug-in that the option names. Raises `pytest.UsageError` if it cannot be loaded."""
    from crishim.plugins import PluginError, load

    try:
        return load(_chosen[0] if _chosen else "")
    except PluginError as error:
        raise pytest.UsageError(f"--crishim-backend: {error.message}") from error
