"""PID namespaces that are shared: only the one that is meant is ever joined, and the end of a pod's own is the pod's."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crishim.backends.runc.pods import build
from crishim.errors import FailedPrecondition
from crishim.interfaces.capabilities import SupportsSandboxWait
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.model.container import ContainerMetadata, ContainerSpec, LinuxContainerConfig
from crishim.model.runtime import ContainerEventType
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxState
from crishim.model.security import (
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
)
from crishim.model.values import ContainerId, ImageId, SandboxId
from crishim.pods.backend import OciPodBackend
from crishim.testing import Harness
from tests.backends.runc.world import needs, node, without_hybrid

pytestmark = [pytest.mark.node, needs("runc", "crun", "conmon", "busybox", "unshare", "catatonit")]

SHARED = NamespaceOption(pid=NamespaceMode.POD)
APART = NamespaceOption(pid=NamespaceMode.CONTAINER)


@pytest.fixture(params=["runc", "crun"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    if request.param == "crun":
        without_hybrid()
    async with node(tmp_path, runtime=request.param) as world:
        yield world


async def pod(world: Harness, options: NamespaceOption = SHARED) -> SandboxId:
    """A pod with these namespaces."""
    security = LinuxSandboxSecurityContext(namespace_options=options)
    return await world.run_sandbox(linux=LinuxPodSandboxConfig(security_context=security))


async def run(world: Harness, sandbox: SandboxId, name: str, options: NamespaceOption) -> ContainerId:
    """A running container with these namespaces."""
    security = LinuxContainerSecurityContext(namespace_options=options)
    return await world.run_container(sandbox, name, "sleep", "600", linux=LinuxContainerConfig(security_context=security))


def backend_of(world: Harness) -> OciPodBackend:
    assert isinstance(world.backend, OciPodBackend)
    return world.backend


async def create_unasked(world: Harness, sandbox: SandboxId, options: NamespaceOption) -> None:
    """A creation as it reaches the backend before the service has seen that a process has ended."""
    spec = ContainerSpec(
        id=ContainerId("a" * 64),
        sandbox=world.services._core.table.sandbox(sandbox).record.spec,
        metadata=ContainerMetadata("late"),
        image_id=ImageId("image"),
        argv=("sleep", "600"),
        security=LinuxContainerSecurityContext(namespace_options=options),
    )
    try:
        await backend_of(world).create_container(spec)
    finally:
        await backend_of(world).remove_container(spec.id)


async def kill(world: Harness, subject: str) -> None:
    """Kill the first process of a container or pause, and wait for its end."""
    state = await backend_of(world)._runtime.state(subject)
    os.kill(state.pid, signal.SIGKILL)
    await asyncio.wait_for(backend_of(world)._runtime.wait(subject), 30)


@contextlib.contextmanager
def pid_taken(bundle: Path) -> Iterator[None]:
    """A process of the node has the pid that the first process of a bundle had."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        _, start = (bundle / FIRST_PROCESS).read_text().split()
        (bundle / FIRST_PROCESS).write_text(f"{other.pid} {start}")
        yield


async def pid_namespace(world: Harness, subject: str) -> Path:
    """Where the kernel shows the PID namespace of a first process that runs."""
    return Path(f"/proc/{(await backend_of(world)._runtime.state(subject)).pid}/ns/pid")


def namespaces_below(folder: Path) -> list[Path]:
    """Where namespaces are mounted in a folder."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    paths = [Path(line.split()[4]) for line in lines if " nsfs " in line]
    return [path for path in paths if path.is_relative_to(folder)]


async def is_not_ready(world: Harness, sandbox: SandboxId) -> None:
    """Return when the sandbox is NOTREADY."""
    async with asyncio.timeout(30):
        while (await world.services.sandboxes.status(sandbox, verbose=False)).status.state is PodSandboxState.READY:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_is_joined(world: Harness, tmp_path: Path) -> None:
    """A container joins its pod's PID namespace, one with TARGET its target's (CRI, NamespaceMode); no other pin is left."""
    sandbox = await pod(world)
    one = await run(world, sandbox, "one", SHARED)
    own = await run(world, sandbox, "own", APART)
    late = await run(world, sandbox, "late", NamespaceOption(pid=NamespaceMode.TARGET, target_id=own))
    pause, first, apart, target = [await pid_namespace(world, subject) for subject in (sandbox, one, own, late)]
    assert pause.samefile(first)
    assert apart.samefile(target)
    assert not apart.samefile(pause)
    assert [tmp_path / "run" / "sandboxes" / sandbox / "pid"] == namespaces_below(tmp_path / "run")


async def test_the_reused_pid_of_a_dead_pause_is_not_joined(world: Harness, tmp_path: Path) -> None:
    """Once its pause has ended a pod takes no container, whatever process has the pause's pid."""
    sandbox = await pod(world)
    await kill(world, sandbox)
    with pid_taken(tmp_path / "run" / "sandboxes" / sandbox / "pause"), pytest.raises(FailedPrecondition, match="ended"):
        await create_unasked(world, sandbox, SHARED)


async def test_the_reused_pid_of_a_dead_target_is_not_joined(world: Harness, tmp_path: Path) -> None:
    """Once the target has ended its PID namespace cannot be joined, whatever process has its pid."""
    sandbox = await pod(world, APART)
    target = await run(world, sandbox, "target", APART)
    await kill(world, target)
    debug = NamespaceOption(pid=NamespaceMode.TARGET, target_id=target)
    with pid_taken(tmp_path / "run" / "containers" / target), pytest.raises(FailedPrecondition, match="ended"):
        await create_unasked(world, sandbox, debug)


async def test_the_nodes_own_is_for_those_who_ask_for_it(world: Harness) -> None:
    """A target in the node's PID namespace is refused: only NODE gives that."""
    sandbox = await pod(world, NamespaceOption(pid=NamespaceMode.NODE))
    target = await run(world, sandbox, "target", NamespaceOption(pid=NamespaceMode.NODE))
    with pytest.raises(FailedPrecondition, match="node's own"):
        await create_unasked(world, sandbox, NamespaceOption(pid=NamespaceMode.TARGET, target_id=target))


async def test_a_pod_ends_with_its_pause(world: Harness) -> None:
    """When a pause is killed its pod is NOTREADY, with an event, takes no container, and is stopped and removed (rpc.md 4)."""
    sandbox = await pod(world)
    events = world.services.events.subscribe()
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    await kill(world, sandbox)
    await is_not_ready(world, sandbox)
    event = await asyncio.wait_for(first, 30)
    assert (sandbox, ContainerEventType.STOPPED) == (event.container_id, event.type)
    with pytest.raises(FailedPrecondition):
        await run(world, sandbox, "late", SHARED)
    await world.services.sandboxes.stop(sandbox)
    await world.services.sandboxes.remove(sandbox)
    assert ContainerEventType.DELETED is (await anext(events)).type


@pytest.mark.parametrize("away", [True, False])
async def test_a_restart_and_the_end_of_a_pause(world: Harness, *, away: bool) -> None:
    """A pause that ended while no server ran is found at the next start, and a running one is watched again."""
    sandbox, other = await pod(world), await world.run_sandbox("other")
    await world.__aexit__(None, None, None)
    if away:
        await kill(world, sandbox)
    world.backend = build(backend_of(world)._context)
    await world.__aenter__()
    if not away:
        await kill(world, sandbox)
    await is_not_ready(world, sandbox)
    assert PodSandboxState.READY is (await world.services.sandboxes.status(other, verbose=False)).status.state


async def test_a_pod_without_a_pause_ends_with_its_stop(world: Harness) -> None:
    """The wait for such a pod costs no process, and is over when the pod is stopped; so is any later one."""
    sandbox = await pod(world, APART)
    backend = backend_of(world)
    assert SupportsSandboxWait in backend.capabilities
    wait = asyncio.ensure_future(backend.wait_sandbox(sandbox))
    await asyncio.sleep(0)
    assert not wait.done()
    await backend.stop_sandbox(sandbox)
    assert await asyncio.wait_for(wait, 30) == await asyncio.wait_for(backend.wait_sandbox(sandbox), 30)
