"""Checkpoints of whole pods."""

import asyncio
from pathlib import Path

from crishim.model.values import EMPTY
from crishim.testing import Harness


async def test_containers_may_be_named_twice_and_in_any_order(tmp_path: Path) -> None:
    """CheckpointPod calls that name containers twice, or in different orders, do not wait for one another for ever."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        one = await world.run_container(sandbox_id, "one")
        two = await world.run_container(sandbox_id, "two")
        checkpoint = world.services.pods.checkpoint
        async with asyncio.timeout(10):
            await asyncio.gather(
                checkpoint(sandbox_id, str(tmp_path / "a"), (one, two, one), EMPTY),
                checkpoint(sandbox_id, str(tmp_path / "b"), (two, one), EMPTY),
            )
        assert [False, False] == [container.paused for container in world.fake.containers.values()]
        assert 4 == world.fake.verbs().count("checkpoint")
