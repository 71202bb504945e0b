"""What the node is told about the runtime as a whole."""

from crishim.errors import PermissionDenied
from crishim.testing import Harness, failing
from crishim.testing.fakes import FakeNetwork


async def test_network_that_cannot_be_asked_is_not_ready() -> None:
    """A network whose `ready` raises makes NetworkReady false instead of failing Status (rpc.md 6)."""
    network = failing(FakeNetwork(), "ready", error=PermissionDenied("/etc/cni/net.d: Permission denied"))
    async with Harness(network=network) as world:
        condition = (await world.services.runtime.status(verbose=False)).conditions[1]
        assert ("NetworkReady", False, "NetworkPluginNotReady") == (condition.type, condition.status, condition.reason)
        assert "Network plugin returns error: /etc/cni/net.d: Permission denied" == condition.message
