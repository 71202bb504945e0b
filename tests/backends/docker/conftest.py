from collections.abc import Iterator

import pytest

from tests.backends.docker.world import Dockerd, dockerd


@pytest.fixture(scope="session")
def engine() -> Iterator[Dockerd]:
    """One engine for all tests that leave it as it was."""
    with dockerd() as running:
        yield running
