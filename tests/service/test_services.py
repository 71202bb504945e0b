"""The whole life of a pod over fakes."""

from crishim.model.container import ContainerFilter, ContainerState
from crishim.model.sandbox import PodSandboxFilter, PodSandboxState
from crishim.testing import Harness
from crishim.testing.doubles import settle


async def test_pod_life() -> None:
    """A pod is created, runs, ends and is removed, and nothing is left."""
    async with Harness() as world:
        services = world.services
        sandbox_id = await world.run_sandbox()
        status = await services.sandboxes.status(sandbox_id, verbose=True)
        assert PodSandboxState.READY is status.status.state
        assert ("10.88.0.1",) == status.status.ips
        container_id = await world.run_container(sandbox_id, "main", "sleep")
        assert ContainerState.RUNNING is (await services.containers.status(container_id, verbose=False)).status.state
        world.fake.exits("main", 3)
        await settle()
        seen = (await services.containers.status(container_id, verbose=True)).status
        assert (ContainerState.EXITED, 3, "Error") == (seen.state, seen.exit_code, seen.reason)
        await services.sandboxes.stop(sandbox_id)
        await services.sandboxes.stop(sandbox_id)
        await services.sandboxes.remove(sandbox_id)
        await services.sandboxes.remove(sandbox_id)
        assert [] == list(await services.sandboxes.list(PodSandboxFilter()))
        assert [] == list(await services.containers.list(ContainerFilter()))
    assert ({}, {}, {}, {}) == (world.fake.sandboxes, world.fake.containers, world.network.addresses, world.namespaces.paths)
