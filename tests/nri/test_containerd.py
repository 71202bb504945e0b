"""A plugin of our kit as a plugin of containerd 2."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from crishim._proto import nri_pb2 as pb
from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.nri.plugin import Adjustment
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config, sandbox_config
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, images
from tests.nri.world import Noting, refusing, replying
from tests.shimv2.containerd import PROGRAMS, Containerd, containerd
from tests.suite.settings import NEWEST

pytestmark = [
    pytest.mark.node,
    needs(*PROGRAMS, *TOOLS, "catatonit"),
    pytest.mark.skipif(bool(NEWEST.missing), reason=f"needs {NEWEST.missing}"),
]

EVENTS = [
    "run_pod_sandbox",
    "create_container",
    "post_create_container",
    "start_container",
    "post_start_container",
    "stop_container",
    "stop_pod_sandbox",
    "remove_container",
    "remove_pod_sandbox",
]


def on_the_host(logs: Path) -> PodSandboxConfig:
    """A pod on the host's network."""
    options = NamespaceOption(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
    linux = LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=options))
    return sandbox_config("pod", hostname="", linux=linux, log_directory=str(logs))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Containerd]:
    with images(tmp_path) as image, containerd(image, NEWEST) as started:
        yield started


@pytest.fixture
async def pod(node: Containerd, tmp_path: Path) -> AsyncIterator["Pod"]:
    async with node.cri() as client:
        made = Pod(node, client, on_the_host(tmp_path))
        await client.pull_image(ImageSpec(image=node.image), made.config)
        yield made


class Pod:
    """A pod of containerd's, for the handler that a test names."""

    def __init__(self, node: Containerd, client: Any, config: Any) -> None:
        self.node, self.client, self.config = node, client, config
        self.id = ""

    async def start(self, handler: str) -> str:
        """The pod with a running container; its id."""
        self.id = await self.client.run_sandbox(self.config, handler)
        config = container_config(
            "", metadata=ContainerMetadata("main"), image=ImageSpec(image=self.node.image), command=("sleep", "600")
        )
        container: str = await self.client.create_container(self.id, config, self.config)
        await self.client.start_container(container)
        return container

    async def remove(self) -> None:
        await self.client.stop_sandbox(self.id)
        await self.client.remove_sandbox(self.id)


async def running(plugin: Noting, node: Containerd) -> "asyncio.Task[None]":
    """The plugin, once containerd has synchronized it."""
    synchronized = asyncio.Event()

    async def synchronize(pods: Sequence[pb.PodSandbox], containers: Sequence[pb.Container]) -> None:
        synchronized.set()

    plugin.replies["synchronize"] = synchronize
    task = asyncio.create_task(plugin.run(node.folder / "nri.sock"))
    async with asyncio.timeout(10):
        await synchronized.wait()
    return task


@pytest.mark.parametrize("handler", ["runc", "crishim", "pod"])
async def test_events_and_adjustments(node: Containerd, pod: Pod, handler: str) -> None:
    """Containerd calls the plugin for each event of a pod and applies its adjustments, with runc's shim and with ours."""
    limits = pb.ContainerAdjustment(rlimits=[pb.POSIXRlimit(type="RLIMIT_NOFILE", hard=77, soft=77)])
    plugin = Noting("50-noting", create_container=replying(Adjustment(env={"ADDED": "by a plugin"}, message=limits)))
    task = await running(plugin, node)
    container = await pod.start(handler)
    done = await pod.client.exec_sync(container, ("sh", "-c", "echo $ADDED; ulimit -n"), 10)
    assert b"by a plugin\n77\n" == done.stdout
    await pod.remove()
    await until(lambda: EVENTS == [event for event, _ in plugin.events])
    assert {pod.id, container} == {subject for _, subject in plugin.events}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_refusal(node: Containerd, pod: Pod) -> None:
    """An exception refuses the creation; its text is in containerd's answer."""
    task = await running(Noting("50-noting", create_container=refusing("not in this pod")), node)
    with pytest.raises(Exception, match="not in this pod"):
        await pod.start("crishim")
    await pod.remove()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
