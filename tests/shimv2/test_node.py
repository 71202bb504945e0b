"""A node whose pods live behind shims: the server is killed at any moment, and nothing is left that no record explains."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from crishim.cri import pb
from crishim.play import CallError
from crishim.shimv2.client.files import SandboxFolder
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, Node, images, one_node, real_plugins
from tests.shimv2.world import host_leftovers, stand_in

pytestmark = [pytest.mark.node, needs(*TOOLS, "containerd-shim-runc-v2", "catatonit"), real_plugins()]

MOMENTS = 8


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with images(tmp_path_factory.mktemp("images")) as reference:
        yield reference


@pytest.fixture(params=["shim", "kata"])
def node(request: pytest.FixtureRequest, image: str) -> Iterator[Node]:
    """A node with containerd's shim, and one with the stand-in for kata's."""
    with one_node(image, number=78) as started:
        config = started.place / "crishim.toml"
        option = f'shim = "{stand_in(started.place / "k")}"' if request.param == "kata" else ""
        text = config.read_text().replace('runtime = "runc"', f'plugin = "{request.param}"\n{option}')
        config.write_text(text)
        yield started


def left(node: Node) -> set[str]:
    """What is on this machine because of the node's pods, of shims and machines as well."""
    shims = (node.run / "backends" / "runc" / "shims").glob("*")
    return {*node.traces(), *(f"shim {path.name}" for path in shims), *host_leftovers(node.place / "k")}


async def test_killed_at_any_moment(node: Node) -> None:
    """Whenever the server is killed while a pod is created, the removal of what the next one knows leaves nothing."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        begun = asyncio.get_running_loop().time()
        await node.make_pod(client, "first")
        took = asyncio.get_running_loop().time() - begun
        await node.empty(client)
    assert set() == left(node)
    for moment in range(MOMENTS):
        async with node.client() as client:
            making = asyncio.ensure_future(node.make_pod(client, f"pod{moment}"))
            await asyncio.sleep(took * moment / (MOMENTS - 1))
            node.kill()
            with contextlib.suppress(CallError):
                await making
        node.start()
        async with node.client() as client:
            await node.empty(client)
        trace = left(node)
        remaining = [path.name for path in (node.run / "backends/runc/runtime/crishim").glob("*")]
        assert (set(), []) == (trace, remaining), f"moment {moment}: {sorted(trace)} {remaining}"


async def test_shim_and_server_die(node: Node) -> None:
    """Containers run on without the server; a shim that died with it is found dead by the next: 137, NOTREADY, nothing left."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        sandbox, one, _ = await node.make_pod(client, "pod")
        other, running, _ = await node.make_pod(client, "other")
    node.kill()
    record = SandboxFolder(node.run / "backends/runc/shims" / sandbox).shim()
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    node.start()
    async with node.client() as client:
        assert pb.CONTAINER_RUNNING == (await client.container_status(running)).state
        ended = await client.container_status(one)
        assert (pb.CONTAINER_EXITED, 137) == (ended.state, ended.exit_code)
        states = {sandbox.id: sandbox.state for sandbox in await client.list_sandboxes({})}
        assert {sandbox: pb.SANDBOX_NOTREADY, other: pb.SANDBOX_READY} == states
        await node.empty(client)
    # The stand-in's host is a folder of its own, where the server does not look for what a killed shim leaves (test_leftovers).
    assert set() == {trace for trace in left(node) if not trace.startswith("host/")}
