"""Execs that outlive their commands or their clients."""

import asyncio
import os
from pathlib import Path

import pytest

from crishim.interfaces.capabilities import ProcessIO
from crishim.model.container import ContainerState, LinuxContainerConfig
from crishim.model.process import ExecSpec
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import (
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
)
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs, node, without_hybrid
from tests.node.world import processes

pytestmark = [pytest.mark.node, needs("runc", "crun", "conmon", "busybox")]


class NeverReads:
    """A client that takes one piece, and no more."""

    def __init__(self) -> None:
        self.full = asyncio.Event()

    async def write(self, data: bytes) -> None:
        if self.full.is_set():
            await asyncio.Event().wait()
        self.full.set()


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_what_an_exec_has_left_holds_its_output(tmp_path: Path, runtime: str) -> None:
    """A command that ended with 0 and left a child on its output has ended with 0, also when its time is up meanwhile."""
    without_hybrid()
    async with node(tmp_path, runtime=runtime) as world:
        container_id = await world.run_container(await world.run_sandbox(), "main", "sleep", "600")
        result = await world.services.streams.exec_sync(container_id, ("sh", "-c", "sleep 600 & echo said"), 1)
        assert (0, b"said\n") == (result.exit_code, result.stdout)


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_a_client_that_does_not_read_keeps_no_container_from_ending(tmp_path: Path, runtime: str, *, tty: bool) -> None:
    """A container is stopped at once, however much output of its execs is unread; the exec ends after it."""
    without_hybrid()
    async with node(tmp_path, runtime=runtime) as world:
        container_id = await world.run_container(await world.run_sandbox(), "main", "sleep", "600")
        client = NeverReads()
        spec = ExecSpec(argv=("sh", "-c", "while :; do echo lots of output; done"), tty=tty)
        running = asyncio.create_task(world.services.streams.run_exec(container_id, spec, ProcessIO(stdout=client)))
        await client.full.wait()
        await asyncio.wait_for(world.services.containers.stop(container_id, 0), 20)
        assert ContainerState.EXITED is (await world.services.containers.status(container_id, verbose=False)).status.state
        assert 137 == (await asyncio.wait_for(running, 30)).code


@pytest.mark.parametrize("mode", [NamespaceMode.POD, NamespaceMode.NODE])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_what_a_container_has_started_ends_with_it(tmp_path: Path, runtime: str, mode: NamespaceMode) -> None:
    """In a PID namespace that continues, a container's children end with its first process, before its exit is shown."""
    without_hybrid()
    options = NamespaceOption(pid=mode)
    linux = LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=options))
    inside = LinuxContainerConfig(security_context=LinuxContainerSecurityContext(namespace_options=options))
    async with node(tmp_path, runtime=runtime) as world:
        pod = await world.run_sandbox(linux=linux)
        seconds = str(100_000 + os.getpid())
        script = f"setsid sleep {seconds} & sleep {seconds} & exit 3"
        container_id = await world.run_container(pod, "main", "sh", "-c", script, linux=inside)
        await until(lambda: ContainerState.EXITED is world.services._core.table.containers[container_id].state)
        assert [] == [line for _, line in processes(seconds) if "sleep" in line]


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_an_exec_that_is_given_up_at_any_moment_leaves_no_process(tmp_path: Path, runtime: str, *, tty: bool) -> None:
    """Whenever a client disconnects, also between the fork of an exec and the runtime's report of it, its process ends."""
    without_hybrid()
    async with node(tmp_path, runtime=runtime) as world:
        container_id = await world.run_container(await world.run_sandbox(), "main", "sleep", "600")
        seconds = str(200_000 + os.getpid())
        spec = ExecSpec(argv=("sleep", seconds), tty=tty)
        for moment in range(24):
            running = asyncio.create_task(world.services.streams.run_exec(container_id, spec, ProcessIO(stdout=NeverReads())))
            await asyncio.wait({running}, timeout=0.003 * moment)
            running.cancel()
            await asyncio.wait({running})
        await until(lambda: [] == [line for _, line in processes(seconds) if "sleep" in line])
