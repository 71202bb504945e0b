"""A container whose log folder is gone, and one whose monitor has died."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from crishim.keeper.client import KeeperClient
from crishim.linux.processes import recorded
from crishim.monitor.conmon import MONITOR_PROCESS
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs, node, without_hybrid

pytestmark = [pytest.mark.node, needs("runc", "crun", "conmon", "busybox")]

TICKS = "trap 'exit 9' TERM; while :; do echo tick; sleep 0.05; done"


async def monitor_pid(run: Path, container_id: str, monitor: str) -> int:
    """The process that has a container's streams."""
    if monitor == "keeper":
        return await KeeperClient(run / "keeper").identify() or 0
    conmon = recorded(run / "containers" / container_id / MONITOR_PROCESS)
    return 0 if conmon is None else conmon.pid


@pytest.mark.parametrize("monitor", ["conmon", "keeper"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_a_log_folder_that_is_gone(tmp_path: Path, runtime: str, monitor: str) -> None:
    """ReopenContainerLog creates the folder again: the monitor lives, the log is written, and the exit code is the
    container's.
    """
    without_hybrid()
    async with node(tmp_path, runtime=runtime, monitor=monitor) as world:
        pod = await world.run_sandbox(log_directory=str(tmp_path / "logs"))
        container_id = await world.run_container(pod, "main", "sh", "-c", TICKS, log_path="main/0.log")
        shutil.rmtree(tmp_path / "logs")
        await world.services.containers.reopen_log(container_id)
        log = tmp_path / "logs" / "main" / "0.log"
        await until(lambda: "tick" in log.read_text())
        await world.services.containers.stop(container_id, 30)
        assert 9 == (await world.services.containers.status(container_id, verbose=False)).status.exit_code


@pytest.mark.parametrize("monitor", ["conmon", "keeper"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_a_monitor_that_is_killed(tmp_path: Path, runtime: str, monitor: str) -> None:
    """The container keeps running, and its exit code is known nevertheless: it has become a child of this process."""
    without_hybrid()
    async with node(tmp_path, runtime=runtime, monitor=monitor) as world:
        container_id = await world.run_container(
            await world.run_sandbox(), "main", "sh", "-c", "trap 'exit 9' TERM; touch /ready; while :; do sleep 0.05; done"
        )
        await until((tmp_path / "roots" / container_id / "ready").exists)
        os.kill(await monitor_pid(tmp_path / "run", container_id, monitor), signal.SIGKILL)
        await world.services.containers.stop(container_id, 30)
        assert 9 == (await world.services.containers.status(container_id, verbose=False)).status.exit_code
