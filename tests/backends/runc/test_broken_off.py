"""Creations that are broken off by the pod's removal, at many moments."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crishim.errors import CrishimError
from crishim.testing import Harness
from tests.backends.runc.world import needs, node

pytestmark = [pytest.mark.node, needs("runc", "conmon", "busybox", "unshare", "catatonit")]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Harness]:
    async with node(tmp_path, runtime="runc") as world:
        yield world


async def test_a_pod_is_removed_while_a_container_is_created(world: Harness, tmp_path: Path) -> None:
    """Whenever the pod is removed, with a shared PID namespace, that is quick and leaves no partly created container."""
    for moment in range(12):
        sandbox = await world.run_sandbox(f"pod{moment}")
        creating = asyncio.ensure_future(world.create_container(sandbox, "main", "sleep", "600"))
        await asyncio.sleep(0.008 * moment)
        await world.services.sandboxes.remove(sandbox)
        with contextlib.suppress(CrishimError):
            await creating
        for folder in ("runtime", "containers", "sandboxes"):
            assert [] == list((tmp_path / "run" / folder).glob("*")), f"moment {moment}: {folder}"
