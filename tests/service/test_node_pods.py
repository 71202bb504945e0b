"""Checkpoints of whole pods."""

import asyncio
from pathlib import Path

import pytest

from crishim.errors import AlreadyExists, InvalidArgument, NotFound
from crishim.model.runtime import RestorePod
from crishim.model.values import EMPTY
from crishim.testing import Harness
from crishim.testing.harness import container_config, sandbox_config


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


async def test_all_are_paused_before_the_first_is_written(tmp_path: Path) -> None:
    """A pod's archives are of one moment: every container is paused first, and resumed when the last archive is written."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        for name in ("one", "two"):
            await world.run_container(sandbox_id, name)
        begun = len(world.fake.verbs())
        await world.services.pods.checkpoint(sandbox_id, str(tmp_path), (), EMPTY)
        expected = ["pause_container"] * 2 + ["checkpoint"] * 2 + ["resume_container"] * 2 + ["write_pod_checkpoint"]
        assert expected == world.fake.verbs()[begun:]


async def test_a_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    """A folder with a checkpoint takes no second one."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        await world.run_container(sandbox_id)
        await world.services.pods.checkpoint(sandbox_id, str(tmp_path), (), EMPTY)
        with pytest.raises(AlreadyExists):
            await world.services.pods.checkpoint(sandbox_id, str(tmp_path), (), EMPTY)


async def test_a_restore_names_containers_of_the_checkpoint(tmp_path: Path) -> None:
    """RestorePod refuses a container that is not in the checkpoint, and a folder without a checkpoint; no pod is created."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        await world.run_container(sandbox_id, "one")
        await world.services.pods.checkpoint(sandbox_id, str(tmp_path), (), EMPTY)
        for folder, name, error in ((tmp_path, "two", InvalidArgument), (tmp_path / "none", "one", NotFound)):
            wanted = RestorePod(
                checkpoint_path=str(folder), config=sandbox_config("again"), container_configs=(container_config(name),)
            )
            with pytest.raises(error):
                await world.services.pods.restore(wanted)
        assert [sandbox_id] == list(world.fake.sandboxes)
