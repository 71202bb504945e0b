import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crishim.errors import CrishimError
from crishim.pods.namespaces import PinnedNamespaces
from tests.shimv2.world import ShimWorld, host_leftovers, kata, runc_shim


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[PinnedNamespaces]:
    namespaces = PinnedNamespaces(tmp_path / "pins")
    with contextlib.closing(namespaces):
        yield namespaces


@pytest.fixture
async def machines(tmp_path: Path, pins: PinnedNamespaces) -> AsyncIterator[ShimWorld]:
    """Pods over the stand-in for kata's shim; nothing may be left of them."""
    world = ShimWorld(tmp_path, pins, kata(tmp_path))
    async with tidied(world):
        yield world
    assert [] == host_leftovers(tmp_path)


@pytest.fixture
async def containers(tmp_path: Path, pins: PinnedNamespaces) -> AsyncIterator[ShimWorld]:
    """Pods over containerd's own shim; nothing may be left of them."""
    world = ShimWorld(tmp_path, pins, runc_shim)
    async with tidied(world):
        yield world


@contextlib.asynccontextmanager
async def tidied(world: ShimWorld) -> AsyncIterator[None]:
    await world.begin()
    try:
        yield
    finally:
        with contextlib.suppress(CrishimError):
            await world.tidy()
        await world.close()
        left = world.shims()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert [] == left
