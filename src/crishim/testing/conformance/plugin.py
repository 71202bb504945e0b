"""The pytest plug-in: `pytest --crishim-backend package.module:factory` examines a backend with no test file at all.

It imports nothing of crishim until the option is used, since pytest loads it for everybody who has crishim installed.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_chosen: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    group = parser.getgroup("crishim")
    group.addoption(
        "--crishim-backend",
        metavar="MODULE:FACTORY",
        help="run crishim's exam on the backend that FACTORY(BackendContext) makes, and nothing else unless files are named",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect the exam if it is asked for."""
    chosen = config.getoption("--crishim-backend")
    if chosen:
        _chosen[:] = [chosen]
        named = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
        config.args = [*named, str(Path(__file__).with_name("exam.py"))]


def chosen_factory() -> Callable[..., Any]:
    """The factory that the option names. Raises `pytest.UsageError` for a wrong name."""
    module, _, name = (_chosen or [""])[0].partition(":")
    if not (module and name):
        raise pytest.UsageError("--crishim-backend takes module:factory")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise pytest.UsageError(f"--crishim-backend {module}:{name}: {error}") from error
    return factory
