"""The fixtures of the pytest plug-in: a node over fakes for tests of clients."""

import time

import grpc
import pytest

from crishim._proto import cri_pb2 as pb
from crishim.errors import ResourceExhausted
from crishim.model.container import ContainerState
from crishim.model.values import ContainerId
from crishim.play import connect
from crishim.testing import FakeBackend, ServedNode, failing


def pods(address: str) -> list[str]:
    """The names of the pods at an address, by a client that blocks."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/runtime.v1.RuntimeService/ListPodSandbox",
            request_serializer=pb.ListPodSandboxRequest.SerializeToString,
            response_deserializer=pb.ListPodSandboxResponse.FromString,
        )
        return [item.metadata.name for item in call(pb.ListPodSandboxRequest()).items]


def state(node: ServedNode, container_id: ContainerId) -> ContainerState:
    return node.run(node.harness.services.containers.status(container_id, False)).status.state


def test_a_client_that_blocks(crishim_node: ServedNode, crishim_socket: str) -> None:
    """A client in the test's own thread sees the pods that the test has run on the node."""
    crishim_node.run(crishim_node.harness.run_sandbox("web"))
    assert ["web"] == pods(crishim_socket)


def test_a_restart(crishim_node: ServedNode) -> None:
    """After a restart the same pods are served at the same address."""
    crishim_node.run(crishim_node.harness.run_sandbox("web"))
    crishim_node.restart()
    assert ["web"] == pods(crishim_node.endpoint)


def test_a_script(crishim_node: ServedNode, crishim_backend: FakeBackend) -> None:
    """The test scripts the fake in the node's thread."""
    sandbox_id = crishim_node.run(crishim_node.harness.run_sandbox("web"))
    container_id = crishim_node.run(crishim_node.harness.run_container(sandbox_id, "main", "sleep"))
    assert ContainerState.RUNNING is state(crishim_node, container_id)
    crishim_node.call(crishim_backend.exits, "main", 3)
    until = time.monotonic() + 30
    while state(crishim_node, container_id) is ContainerState.RUNNING and time.monotonic() < until:
        pass
    assert ContainerState.EXITED is state(crishim_node, container_id)


async def test_a_client_of_asyncio(crishim_node: ServedNode) -> None:
    """A client in a loop of its own is served, too."""
    async with connect(crishim_node.endpoint) as client:
        assert "crishim" == (await client.version()).runtime_name


def test_errors_are_the_callers(crishim_node: ServedNode) -> None:
    """What a call in the node's thread raises is raised by it in the test's."""
    with pytest.raises(KeyError):
        crishim_node.call({}.__getitem__, "no")


def test_another_backend() -> None:
    """A node runs pods on the backend that it is given."""
    backend = failing(FakeBackend(logs_to_disk=False), "start_sandbox", at=1, error=ResourceExhausted("no room"))
    with ServedNode(backend) as node, pytest.raises(ResourceExhausted):
        node.run(node.harness.run_sandbox("web"))
