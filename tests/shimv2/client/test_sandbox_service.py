"""Pods over a shim that serves the Sandbox service: our own, with a daemon for each pod."""

import asyncio
import contextlib
import os
import shutil
import signal
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from crishim._proto import shim_sandbox_pb2 as pb
from crishim.backends.shim import plugin
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.capabilities import ProcessIO
from crishim.model.container import ContainerState
from crishim.model.process import ExecSpec
from crishim.model.security import NamespaceMode, NamespaceOption
from crishim.model.values import ContainerId, FrozenDict
from crishim.pods.namespaces import PinnedNamespaces
from crishim.pods.usage import MeasuredPods
from crishim.shimv2.client.sandbox_link import SandboxLink, offered
from crishim.shimv2.server.launcher import SANDBOX, SCOPE
from crishim.testing.conformance.candidate import until
from crishim.testing.conformance.offers import Sink
from tests.backends.runc.world import needs
from tests.node.world import processes
from tests.shimv2.conftest import tidied
from tests.shimv2.world import ShimWorld

pytestmark = [pytest.mark.node, needs("runc", "busybox", "unshare", "catatonit")]

SHIM = f"{sysconfig.get_path('scripts')}/containerd-shim-crishim-v2"


def our_shim(context: BackendContext) -> MeasuredPods:
    """Pods over our own shim."""
    pods = plugin.build(attrs.evolve(context, options=FrozenDict({**context.options, "shim": SHIM})))
    assert isinstance(pods, MeasuredPods)
    return pods


@pytest.fixture
async def served(tmp_path: Path, pins: PinnedNamespaces, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ShimWorld]:
    """Pods over our shim; no daemon, and nothing in their folder, may be left of them."""
    state = Path(tempfile.mkdtemp(prefix="shm"))
    monkeypatch.setenv("CRISHIM_SHIM_STATE", str(state))
    monkeypatch.setenv(SCOPE, SANDBOX)
    world = ShimWorld(tmp_path, pins, our_shim)
    async with tidied(world):
        yield world
    with contextlib.suppress(TimeoutError):
        await until(lambda: not daemons(state))  # one that has freed what another had left ends after some seconds
    left = daemons(state), folders(state)
    for pid in left[0]:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(state, ignore_errors=True)
    assert ([], []) == left


def daemons(state: Path | str) -> list[int]:
    return [pid for pid, line in processes(str(state)) if "crishim.backends.runc.shim" in line]


def folders(state: Path) -> list[Path]:
    return [path for path in state.glob("*/*") if not path.name.startswith(".")]


async def link_of(world: ShimWorld, pod: str) -> SandboxLink:
    """The connection to a pod's shim, which uses the service."""
    link = await (await world.runtime._sandbox(pod)).link()
    assert isinstance(link, SandboxLink)
    return link


async def output(world: ShimWorld, container_id: ContainerId, *argv: str) -> bytes:
    out = Sink()
    await world.pods.exec(container_id, ExecSpec(argv=argv), ProcessIO(stdout=out))
    return out.data


@pytest.mark.parametrize("pid", [NamespaceMode.CONTAINER, NamespaceMode.POD])
async def test_a_pod(served: ShimWorld, pid: NamespaceMode) -> None:
    """The sandbox is created by the service from the pod's configuration; containers, execs and exits are as ever."""
    config = served.sandbox_spec().config
    security = attrs.evolve(config.linux.security_context, namespace_options=NamespaceOption(pid=pid))
    pod = await served.sandbox(config=attrs.evolve(config, linux=attrs.evolve(config.linux, security_context=security)))
    await link_of(served, pod.id)
    specs = [await served.run_ready(pod, served.programs.sleeps()) for _ in range(2)]
    assert await output(served, specs[0].id, "hostname") == await output(served, specs[1].id, "hostname")
    assert 1 == len(daemons(os.environ["CRISHIM_SHIM_STATE"]))
    await served.backend.kill_container(specs[0].id, signal.SIGKILL)
    assert 137 == (await served.wait(specs[0].id)).code
    (seen,) = (await served.backend.inventory()).sandboxes
    assert (pod.id, True) == (seen.id, seen.ready)


async def test_a_start_that_fails_early(served: ShimWorld) -> None:
    """Nothing of a pod stays in this process if its start fails before the runtime is asked to create it."""
    pod = await served.sandbox()
    with pytest.raises(FileExistsError):
        await served.pods.start_sandbox(pod)
    assert {} == served.runtime._pods


async def test_a_restart(served: ShimWorld) -> None:
    """After a restart of ours the pod, its container and its shim's service are found again."""
    pod = await served.sandbox()
    spec = await served.run_ready(pod, served.programs.sleeps())
    await served.restart()
    await link_of(served, pod.id)
    assert b"again\n" == await output(served, spec.id, "echo", "again")
    (seen,) = (await served.backend.inventory()).sandboxes
    assert seen.ready


async def test_a_sandbox_that_ends_by_itself(served: ShimWorld) -> None:
    """The wait for the pod answers when its sandbox has ended, and the pod is not ready."""
    pod = await served.sandbox()
    waiting = asyncio.ensure_future(served.runtime.wait(pod.id))
    os.kill((await served.runtime.state(pod.id)).pid, signal.SIGKILL)
    assert 137 == (await waiting).code
    (seen,) = (await served.backend.inventory()).sandboxes
    assert not seen.ready


async def test_the_shim_dies(served: ShimWorld) -> None:
    """Containers have ended, and the removal of the pod frees what the daemon has left."""
    pod = await served.sandbox()
    spec = await served.run_ready(pod, served.programs.sleeps())
    (pid,) = daemons(os.environ["CRISHIM_SHIM_STATE"])
    os.kill(pid, signal.SIGKILL)
    assert 137 == (await served.wait(spec.id)).code
    seen = await served.seen(spec.id)
    assert seen is not None
    assert ContainerState.EXITED is seen.state


async def test_a_shim_without_the_service(containers: ShimWorld) -> None:
    """Containerd's own shim does not serve it: its connection is used as it is."""
    pod = await containers.sandbox()
    link = await (await containers.runtime._sandbox(pod.id)).link()
    assert not isinstance(link, SandboxLink)
    assert link is await offered(link, pb.CreateSandboxRequest(sandbox_id=pod.id))
