"""The status of the runtime as a whole."""

import json

import attrs

from crishim.errors import PermissionDenied
from crishim.interfaces.backend import BackendInfo
from crishim.model.values import FrozenDict
from crishim.testing import FakeBackend, Harness, failing
from crishim.testing.fakes import FakeNetwork


async def test_network_that_cannot_be_queried_is_not_ready() -> None:
    """A network whose `ready` raises makes NetworkReady false instead of failing Status (rpc.md 6)."""
    network = failing(FakeNetwork(), "ready", error=PermissionDenied("/etc/cni/net.d: Permission denied"))
    async with Harness(network=network) as world:
        condition = (await world.services.runtime.status(verbose=False)).conditions[1]
        assert ("NetworkReady", False, "NetworkPluginNotReady") == (condition.type, condition.status, condition.reason)
        assert "Network plugin returns error: /etc/cni/net.d: Permission denied" == condition.message


async def test_a_backends_details_are_in_the_verbose_status() -> None:
    """The details of a backend are in the verbose Status, under its handler."""

    class Telling(FakeBackend):
        async def probe(self) -> BackendInfo:
            return attrs.evolve(await super().probe(), details=FrozenDict({"apparmor": "this machine has no AppArmor"}))

    async with Harness(Telling(logs_to_disk=False)) as world:
        config = json.loads((await world.services.runtime.status(verbose=True)).info["config"])
    assert {"apparmor": "this machine has no AppArmor"} == config["backends"]["default"]["details"]
