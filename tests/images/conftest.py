from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crishim.images.store import ContentStore
from crishim.linux.mounts import unmount_below
from crishim.system import SystemClock
from tests.node.registry import Layout, Registry, serving


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serving(tmp_path_factory.mktemp("guarded"), auth=True) as running:
        yield running


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ContentStore]:
    folder = tmp_path / "store"
    content_store = ContentStore(folder, SystemClock())
    yield content_store
    await content_store.close()
    unmount_below(folder)
