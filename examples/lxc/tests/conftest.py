"""LXC leaves a folder below /run/lxc for each folder that has had containers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

LOCKS = Path("/run/lxc/lock/tmp")


@pytest.fixture(scope="session", autouse=True)
def no_locks_are_left() -> Iterator[None]:
    """Those of temporary folders that do not exist any more are removed."""
    yield
    for folder in LOCKS.glob("*"):
        if not (Path("/tmp") / folder.name).exists():
            shutil.rmtree(folder)
