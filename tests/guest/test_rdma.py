"""Limits of RDMA, on a kernel that has a device for it: one in software, over the loopback."""

import subprocess
from collections.abc import Iterator
from typing import Final

import pytest

from crishim.cri import pb
from crishim.model.resources import Resources
from crishim.model.values import FrozenDict
from crishim.play import CallError, CriClient
from tests.backends.runc.world import needs
from tests.guest.world import Pod, in_guest, kubelets_pod, run_container
from tests.node.world import TOOLS, Node, one_node, real_plugins

DEVICE: Final = "rxe0"
pytestmark = [pytest.mark.node, needs(*TOOLS, "crun", "rdma"), real_plugins(), in_guest()]


@pytest.fixture
def device() -> Iterator[None]:
    """A device of RDMA, gone afterwards."""
    subprocess.run(["rdma", "link", "add", DEVICE, "type", "rxe", "netdev", "lo"], check=True)
    try:
        yield
    finally:
        subprocess.run(["rdma", "link", "delete", DEVICE], check=True)


async def with_a_limit(node: Node, client: CriClient, pod: Pod) -> str:
    """A running container with a limit; its id."""
    await node.pull(client)
    sandbox = await client.run_sandbox(pod.config)
    limits = Resources(unified=FrozenDict({"rdma.max": f"{DEVICE} hca_handle=2 hca_object=200"}))
    return await run_container(client, node, sandbox, pod, "c", limits=limits)


@pytest.mark.usefixtures("device")
async def test_a_limit_with_runc(image: str) -> None:
    """`rdma.max` in `unified` is a container's limit from its creation on, and an update changes it."""
    with one_node(image, runtime="runc") as node, kubelets_pod(node, "rdma1") as pod:
        node.start()
        async with node.client() as client:
            container = await with_a_limit(node, client, pod)
            file = pod.scope(container) / "rdma.max"
            assert f"{DEVICE} hca_handle=2 hca_object=200" == file.read_text().strip()
            change = pb.LinuxContainerResources(unified={"rdma.max": f"{DEVICE} hca_handle=3 hca_object=max"})
            request = pb.UpdateContainerResourcesRequest(container_id=container, linux=change)
            await client._ask("UpdateContainerResources", request, pb.UpdateContainerResourcesResponse)
            assert f"{DEVICE} hca_handle=3 hca_object=max" == file.read_text().strip()
            await node.empty(client)


@pytest.mark.usefixtures("device")
async def test_a_limit_with_crun(image: str) -> None:
    """Crun refuses `rdma.max` by name: systemd does not delegate that controller, and crun enables none itself."""
    with one_node(image, runtime="crun") as node, kubelets_pod(node, "rdma2") as pod:
        node.start()
        async with node.client() as client:
            with pytest.raises(CallError, match="controller `rdma` is not available"):
                await with_a_limit(node, client, pod)
            await node.empty(client)
