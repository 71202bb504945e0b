"""Checkpoints of containers with real CRIU."""

import json
import tarfile
from pathlib import Path

import pytest

from crishim.model.container import ContainerState
from crishim.model.image import ImageSpec
from crishim.model.values import ContainerId, SandboxId
from crishim.testing import Harness
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs, node

pytestmark = [pytest.mark.node, needs("runc", "conmon", "busybox", "criu")]

COUNTS = "trap 'exit 9' TERM; exec 5>/tmp/file; i=0; while :; do i=$((i+1)); echo $i; echo $i >&5; sleep 0.05; done"


def last(log: Path) -> int:
    """The number that a counting container has logged last; 0 before the first."""
    lines = log.read_text().splitlines() if log.exists() else []
    return int(lines[-1].split()[-1]) if lines else 0


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """The content of a file of an archive."""
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


async def counting(world: Harness, folder: Path, name: str = "main") -> tuple[SandboxId, ContainerId, Path]:
    """A pod, its container that counts in its log and in an open file, and the log."""
    pod = await world.run_sandbox(log_directory=str(folder / "logs"))
    container_id = await world.run_container(pod, name, "sh", "-c", COUNTS, log_path=f"{name}.log")
    log = folder / "logs" / f"{name}.log"
    await until(lambda: last(log) > 3)
    return pod, container_id, log


async def test_an_archive_is_written_and_the_container_goes_on(tmp_path: Path) -> None:
    """CheckpointContainer writes what containerd and CRI-O write, and nothing beside it; the container counts on."""
    async with node(tmp_path, runtime="runc") as world:
        _, container_id, log = await counting(world, tmp_path)
        target = tmp_path / "out" / "main.tar"
        await world.services.containers.checkpoint(container_id, str(target), 0)
        seen = last(log)
        await until(lambda: last(log) > seen + 3)
        assert [target] == list(target.parent.iterdir())
        with tarfile.open(target) as tar:
            names = {name for name in tar.getnames() if "/" not in name}
            config = json.loads(member(tar, "config.dump"))
        expected = {"config.dump", "spec.dump", "status.dump", "checkpoint", "rootfs-diff.tar", "deleted.files"}
        expected |= {"bind.mounts", "network.status", "dump.log", "stats-dump", "container.log"}
        assert expected == names
        assert ("main", container_id) == (config["name"], config["id"])


async def restored(world: Harness, pod: SandboxId, archive: Path, name: str = "again") -> ContainerId:
    """A container made of an archive, not started."""
    return await world.create_container(pod, name, image=ImageSpec(image=str(archive)), log_path=f"{name}.log")


async def test_a_restored_container_goes_on(tmp_path: Path) -> None:
    """CreateContainer from an archive makes a CREATED container; started it counts on, in its open file too.

    Its log, its execs and its exit are those of any container.
    """
    async with node(tmp_path, runtime="runc") as world:
        pod, container_id, log = await counting(world, tmp_path)
        archive = tmp_path / "main.tar"
        await world.services.containers.checkpoint(container_id, str(archive), 0)
        dumped = last(log)
        await world.services.containers.stop(container_id, 0)
        again = await restored(world, pod, archive)
        assert ContainerState.CREATED is (await world.services.containers.status(again, verbose=False)).status.state
        await world.services.containers.start(again)
        new = tmp_path / "logs" / "again.log"
        await until(lambda: last(new) > dumped + 3)
        first = int(new.read_text().splitlines()[0].split()[-1])
        assert dumped - 1 <= first <= dumped + 3
        done = await world.services.streams.exec_sync(again, ("cat", "/tmp/file"), 10)
        numbers = [int(line) for line in done.stdout.split()]
        assert list(range(1, len(numbers) + 1)) == numbers
        assert len(numbers) > dumped
        await world.services.containers.stop(again, 30)
        assert 9 == (await world.services.containers.status(again, verbose=False)).status.exit_code
