"""What becomes of a container whose program cannot be run, as the kubelet sees it."""

from pathlib import Path

import pytest

from crishim.backends.runc.pods import build
from crishim.errors import CreateRefused
from crishim.model.container import ContainerState
from crishim.pods.backend import OciPodBackend
from tests.backends.runc.world import needs, node, without_hybrid

pytestmark = pytest.mark.node
RUNTIMES = [pytest.param(runtime, marks=needs(runtime, "conmon", "busybox")) for runtime in ("runc", "crun")]


@pytest.fixture(autouse=True)
def hybrid() -> None:
    without_hybrid()


@pytest.mark.parametrize("monitor", ["conmon", "keeper"])
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("program", ["nope", "/no/such/program", "/bin"])
async def test_the_start_fails(tmp_path: Path, runtime: str, program: str, monitor: str) -> None:
    """It is created; its start fails with the runtime's message, which its status has with code 128 and StartError
    (containerd).
    """
    async with node(tmp_path, runtime=runtime, monitor=monitor) as world:
        sandbox = await world.run_sandbox()
        container = await world.create_container(sandbox, "main", program)
        seen = (await world.services.containers.status(container, verbose=False)).status
        assert (ContainerState.CREATED, 0) == (seen.state, seen.exit_code)
        with pytest.raises(CreateRefused) as refused:
            await world.services.containers.start(container)
        seen = (await world.services.containers.status(container, verbose=False)).status
        assert (ContainerState.EXITED, 128, "StartError") == (seen.state, seen.exit_code, seen.reason)
        assert seen.message == refused.value.message
        assert program == "/bin" or program in seen.message
        assert "time=" not in seen.message
        await world.services.containers.remove(container)
        assert () == (await world.backend.inventory()).containers


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_restart_before_the_start(tmp_path: Path, runtime: str) -> None:
    """The reason of the refusal survives a restart; a container that was not started is not found as ended."""
    async with node(tmp_path, runtime=runtime) as world:
        container = await world.create_container(await world.run_sandbox(), "main", "/no/such/program")
        assert isinstance(world.backend, OciPodBackend)
        again = build(world.backend._context)
        assert [ContainerState.CREATED] == [observed.state for observed in (await again.inventory()).containers]
        with pytest.raises(CreateRefused, match="/no/such/program"):
            await again.start_container(container)
