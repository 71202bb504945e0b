"""runc and crun with the node's keeper as their monitor."""

import os
import signal
from pathlib import Path

import attrs
import pytest

from crishim.backends.runc.pods import build, check
from crishim.errors import InvalidArgument
from crishim.interfaces.backend import BackendContext
from crishim.keeper.client import KeeperClient
from crishim.linux import processes
from crishim.model.container import ContainerState, LinuxContainerConfig
from crishim.model.resources import Resources
from crishim.model.values import ContainerId, FrozenDict
from crishim.pods.backend import OciPodBackend
from crishim.system import SystemClock
from crishim.testing import Harness
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs, node, without_hybrid

RUNTIMES = [
    pytest.param(runtime, marks=[pytest.mark.node, needs(runtime, "conmon", "busybox")]) for runtime in ("runc", "crun")
]
TICKS = "trap 'exit 9' TERM; n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done"


def again(world: Harness, monitor: str) -> OciPodBackend:
    """The backend as it is after a restart with another monitor."""
    assert isinstance(world.backend, OciPodBackend)
    context = world.backend._context
    backend = build(attrs.evolve(context, options=FrozenDict({**context.options, "monitor": monitor})))
    assert isinstance(backend, OciPodBackend)
    return backend


@pytest.mark.parametrize(("first", "then"), [("conmon", "keeper"), ("keeper", "conmon")])
@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_restart_with_the_other_monitor(tmp_path: Path, runtime: str, first: str, then: str) -> None:
    """A container has the monitor that it was created with: its exit and its log are known after the other was configured."""
    without_hybrid()
    async with node(tmp_path, runtime=runtime, monitor=first) as world:
        pod = await world.run_sandbox(log_directory=str(tmp_path / "logs"))
        older = await world.run_container(pod, "older", "sh", "-c", TICKS, log_path="older.log")
        backend = again(world, then)
        found = {seen.id: seen.state for seen in (await backend.inventory()).containers}
        assert {older: ContainerState.RUNNING} == found
        log = tmp_path / "logs" / "older.log"
        await until(lambda: log.exists() and b"5" in log.read_bytes())
        log.unlink()
        await backend.reopen_log(ContainerId(older))
        await until(lambda: log.stat().st_size > 0)
        await backend.kill_container(ContainerId(older), signal.SIGTERM)
        assert 9 == (await backend.wait_container(ContainerId(older))).code
        assert (first == "keeper") == (tmp_path / "run" / "containers" / older / "keeper").exists()


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_keeper_is_found_dead_after_a_restart(tmp_path: Path, runtime: str) -> None:
    """Whoever was not monitored any more and has ended meanwhile has ended in an unknown way; an exit that was seen is known,
    new containers have a new keeper, and all of them can be removed.
    """
    without_hybrid()
    async with node(tmp_path, runtime=runtime, monitor="keeper") as world:
        pod = await world.run_sandbox()
        seen = await world.run_container(pod, "seen", "sh", "-c", "exit 4")
        running = await world.run_container(pod, "running", "sh", "-c", TICKS)
        bundles = tmp_path / "run" / "containers"
        await until((bundles / seen / "exit").exists)
        keeper = processes.read(await KeeperClient(tmp_path / "run" / "keeper").identify() or 0)
        first = processes.recorded(bundles / running / "process")
        assert keeper is not None
        assert first is not None
        os.kill(keeper.pid, signal.SIGKILL)
        os.kill(first.pid, signal.SIGKILL)
        await processes.ended(first)
        backend = again(world, "keeper")
        codes = {found.id: found.exit.code for found in (await backend.inventory()).containers if found.exit is not None}
        assert 4 == codes[ContainerId(seen)]
        assert (await backend.wait_container(ContainerId(running))).code in {137, 255}  # it may have become our child
        newer = await world.run_container(pod, "newer", "sh", "-c", "exit 5")
        await until((bundles / newer / "exit").exists)
        assert 5 == (await world.backend.wait_container(ContainerId(newer))).code


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_nothing_is_left_in_the_keeper(tmp_path: Path, runtime: str) -> None:
    """A container that is removed is forgotten, whether it has ended, was created only, or could not be created."""
    without_hybrid()
    keeper = KeeperClient(tmp_path / "run" / "keeper")
    async with node(tmp_path, runtime=runtime, monitor="keeper") as world:
        pod = await world.run_sandbox()
        ended = await world.run_container(pod, "ended", "sh", "-c", "exit 4")
        created = await world.create_container(pod, "created", "sh")
        refused = await world.create_container(pod, "refused", "/no/such/program")
        assert {pod, ended, created} == set(await keeper.containers())
        for container in (ended, created, refused):
            await world.services.containers.remove(container)
        assert {pod} == set(await keeper.containers())
        await world.services.sandboxes.remove(pod)
        assert {} == await keeper.containers()


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_memory_that_runs_out(tmp_path: Path, runtime: str) -> None:
    """A container that the out-of-memory killer has ended is OOMKilled, though only the keeper saw its end."""
    without_hybrid()
    async with node(tmp_path, runtime=runtime, monitor="keeper") as world:
        pod = await world.run_sandbox()
        memory = LinuxContainerConfig(resources=Resources(memory_limit_in_bytes=32 << 20))
        eats = ("dd", "if=/dev/zero", "of=/dev/null", f"bs={64 << 20}", "count=1")
        greedy = await world.run_container(pod, "greedy", *eats, linux=memory)
        bundle = tmp_path / "run" / "containers" / greedy
        await until((bundle / "exit").exists)
        assert (True, "137") == ((bundle / "oom").exists(), (bundle / "exit").read_text())
        end = await world.backend.wait_container(greedy)
        assert (137, True) == (end.code, end.oom)


def context(folder: Path, **options: str) -> BackendContext:
    return BackendContext(state=folder, runtime_state=folder, options=FrozenDict(options), clock=SystemClock())


def test_the_option(tmp_path: Path) -> None:
    """An unknown monitor is refused, as is the keeper for gVisor and where there is none; conmon need not be there for it."""
    with pytest.raises(InvalidArgument, match="must be conmon or keeper"):
        build(context(tmp_path, monitor="none"))
    with pytest.raises(InvalidArgument, match="this program has none"):
        build(context(tmp_path, monitor="keeper"))
    with pytest.raises(InvalidArgument, match="must be conmon for gVisor"):
        build(attrs.evolve(context(tmp_path, monitor="keeper", runtime="runsc"), keeper=KeeperClient(tmp_path)))
    needed = {name: {finding.what for finding in check({"monitor": name})} for name in ("conmon", "keeper")}
    assert {"conmon"} == needed["conmon"] - needed["keeper"]
