"""A plugin in Go, on the stub of containerd/nri, as a plugin of a real node."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.play import CallError, CriClient
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, Node, images, one_node, real_plugins
from tests.suite import build

pytestmark = [
    pytest.mark.node,
    needs(*TOOLS),
    real_plugins(),
    pytest.mark.skipif(bool(build.missing_plugin()), reason=f"needs {build.missing_plugin()}"),
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with images(tmp_path) as image, one_node(image, number=76) as node:
        yield node


@contextmanager
def connected(node: Node) -> Iterator[Path]:
    """The plugin connects to the node's socket, which is there; the file of its lines."""
    lines = node.place / "lines"
    with lines.open("wb") as output:
        process = subprocess.Popen([build.PLUGIN, node.nri], stdout=output)
    try:
        yield lines
    finally:
        process.terminate()
        process.wait(30)


def create(node: Node, client: CriClient, pod: str, name: str) -> "asyncio.Future[str]":
    config = container_config("", metadata=ContainerMetadata(name), image=ImageSpec(image=node.image), command=("sleep", "600"))
    return asyncio.ensure_future(client.create_container(pod, config, node.sandbox("pod")))


LOOK = ("busybox", "sh", "-c", "echo $ADDED; ulimit -n; busybox grep -c ' /added tmpfs ' /proc/mounts")


async def test_a_plugin_that_connects(node: Node) -> None:
    """It is configured and synchronized, sees each event, adjusts a container, and its error refuses one."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        await until(node.nri.exists)
        with connected(node) as lines:
            await until(lambda: "synchronize" in lines.read_text())
            pod = await client.run_sandbox(node.sandbox("pod"))
            container = await create(node, client, pod, "main")
            await client.start_container(container)
            assert b"by go\n77\n1\n" == (await client.exec_sync(container, LOOK)).stdout
            with pytest.raises(CallError, match="not in this pod"):
                await create(node, client, pod, "refused")
            await client.remove_container(container)
            await client.stop_sandbox(pod)
            await client.remove_sandbox(pod)
            events = [
                "run pod",
                "create main",
                "create refused",
                "removed refused",
                "ended main",
                "removed main",
                "stop pod",
                "remove pod",
            ]
            await until(lambda: "remove pod" in lines.read_text())
            assert ["configure crishim", "synchronize 0 0", *events] == lines.read_text().splitlines()


async def test_a_plugin_that_is_started(node: Node) -> None:
    """From the folder of plugins it is started with the server, with its connection and its name, and adjusts containers."""
    (node.place / "nri").mkdir()
    shutil.copy2(build.PLUGIN, node.place / "nri" / "20-go")
    node.start()
    async with node.client() as client:
        await node.pull(client)
        pod = await client.run_sandbox(node.sandbox("pod"))
        container = await create(node, client, pod, "main")
        await client.start_container(container)
        assert b"by go\n77\n1\n" == (await client.exec_sync(container, LOOK)).stdout
        await client.remove_sandbox(pod)
