"""A plugin's adjustments as containers of a real node see them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crishim._proto import nri_pb2 as pb
from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.nri.plugin import Adjustment, NriPlugin
from crishim.play import CallError, CriClient
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, Node, images, one_node, real_plugins

pytestmark = [pytest.mark.node, needs(*TOOLS), real_plugins()]

LOOK = """echo $ADDED; cat /mnt/file; busybox awk '$2 == "/tmpfs" {print $1}' /proc/mounts; ulimit -n
cat /proc/$(busybox pidof sleep)/oom_score_adj; busybox ls -l /dev/extra | busybox cut -c1"""


class Adjusting(NriPlugin):
    """Adjusts all that it is asked about in one way."""

    name = "adjusting"

    def __init__(self, adjustment: Adjustment) -> None:
        super().__init__()
        self.adjustment = adjustment
        self.seen: list[pb.Container] = []
        self.ready = asyncio.Event()

    async def synchronize(self, *_: Any) -> None:
        self.ready.set()

    async def create_container(self, _: pb.PodSandbox, container: pb.Container) -> Adjustment:
        self.seen.append(container)
        return self.adjustment


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with images(tmp_path_factory.mktemp("images")) as reference:
        yield reference


@pytest.fixture(params=["runc", "crun"])
def node(image: str, request: pytest.FixtureRequest) -> Iterator[Node]:
    with one_node(image, number=79, runtime=request.param) as node:
        yield node


@asynccontextmanager
async def pod_of(node: Node, plugin: Adjusting) -> AsyncIterator[tuple[CriClient, str]]:
    """A server with a plugin, and a pod."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        await until(node.nri.exists)
        running = asyncio.create_task(plugin.run(node.nri))
        await asyncio.wait_for(plugin.ready.wait(), 10)
        pod = await client.run_sandbox(node.sandbox("pod"))
        yield client, pod
        await client.remove_sandbox(pod)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def started(node: Node, client: CriClient, pod: str) -> str:
    config = container_config(
        "", metadata=ContainerMetadata("main"), image=ImageSpec(image=node.image), command=("sh", "-c", "exec sleep 600")
    )
    container = await client.create_container(pod, config, node.sandbox("pod"))
    await client.start_container(container)
    return container


async def test_adjustments_inside(node: Node, tmp_path: Path) -> None:
    """Environment, mounts, limits, devices and hooks of a plugin are in the container, and hooks run."""
    (tmp_path / "file").write_text("mounted\n")
    message = pb.ContainerAdjustment(
        mounts=[
            pb.Mount(destination="/mnt", type="bind", source=str(tmp_path), options=["rbind", "ro"]),
            pb.Mount(destination="/tmpfs", type="tmpfs", source="tmpfs", options=["size=1m", "nosuid"]),
        ],
        rlimits=[pb.POSIXRlimit(type="RLIMIT_NOFILE", hard=77, soft=77)],
        hooks=pb.Hooks(poststop=[pb.Hook(path="/bin/touch", args=["touch", str(tmp_path / "hooked")])]),
        linux=pb.LinuxContainerAdjustment(
            devices=[pb.LinuxDevice(path="/dev/extra", type="c", major=1, minor=3)],
            oom_score_adj=pb.OptionalInt(value=500),
        ),
    )
    async with pod_of(node, Adjusting(Adjustment(env={"ADDED": "by a plugin"}, message=message))) as (client, pod):
        container = await started(node, client, pod)
        done = await client.exec_sync(container, ("busybox", "sh", "-c", LOOK))
        assert ["by a plugin", "mounted", "tmpfs", "77", "500", "c"] == done.stdout.decode().split("\n")[:-1]
        await client.remove_container(container)
        await until((tmp_path / "hooked").exists)


async def test_what_a_plugin_sees_is_in_config_json(node: Node) -> None:
    """The mounts and the cgroup path that a plugin sees at a creation are those of config.json, which has further mounts."""
    async with pod_of(node, plugin := Adjusting(Adjustment())) as (client, pod):
        container = await started(node, client, pod)
        written = json.loads((node.run / "backends" / "runc" / "containers" / container / "config.json").read_text())
    [seen] = plugin.seen
    fields = ("destination", "type", "source", "options")
    mounts = [[mount.destination, mount.type, mount.source, list(mount.options)] for mount in seen.mounts]
    assert mounts == [[mount[name] for name in fields] for mount in written["mounts"]][: len(mounts)]
    assert ("/sys/fs/cgroup", written["linux"]["cgroupsPath"]) == (mounts[-1][0], seen.linux.cgroups_path)


async def test_an_adjustment_that_cannot_be(node: Node) -> None:
    """What the runtime refuses fails the start with its reason, and nothing is left of it."""
    mount = pb.Mount(destination="/x", type="nonsense", source="x", options=["rw"])
    async with pod_of(node, Adjusting(Adjustment(message=pb.ContainerAdjustment(mounts=[mount])))) as (client, pod):
        with pytest.raises(CallError, match=r"No such device|no such device"):
            await started(node, client, pod)
    await until(lambda: not node.traces())
