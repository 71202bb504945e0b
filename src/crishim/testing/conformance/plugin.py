"""The pytest plug-in: `pytest --crishim-backend package.module:plugin` tests a backend without any test file, and the fixtures
`crishim_backend`, `crishim_node` and `crishim_socket` are a node over fakes for tests of a client.

It imports nothing of crishim until it is used, since pytest loads it wherever crishim is installed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from crishim.interfaces.backend import Backend
    from crishim.interfaces.plugin import Plugin
    from crishim.testing.served import ServedNode

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


@pytest.fixture
def crishim_backend() -> "Backend":
    """The backend beneath `crishim_node`, a `crishim.testing.FakeBackend`. Define a fixture of this name for another one."""
    from crishim.testing import FakeBackend

    return FakeBackend(logs_to_disk=False)


@pytest.fixture
def crishim_node(crishim_backend: "Backend") -> Iterator["ServedNode"]:
    """A CRI runtime over `crishim_backend`, served by a thread: `crishim.testing.ServedNode`."""
    from crishim.testing import ServedNode

    with ServedNode(crishim_backend) as node:
        yield node


@pytest.fixture
def crishim_socket(crishim_node: "ServedNode") -> str:
    """The address of `crishim_node` for clients, as `unix:///path`."""
    return crishim_node.endpoint
