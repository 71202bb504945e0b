"""Checks of a backend behind the service: hung verbs, the kubelet's plainest pod, the whole lifecycle of a pod."""

import asyncio

from crishim.config import Deadlines
from crishim.errors import CrishimError, DeadlineExceeded, Unavailable
from crishim.model.container import ContainerFilter, ContainerState
from crishim.model.sandbox import PodSandboxFilter
from crishim.testing.conformance.candidate import World, patiently
from crishim.testing.conformance.kubelet import Kubelet
from crishim.testing.conformance.programs import needed
from crishim.testing.faults import failing, hanging


async def check_plainest_pod_is_taken(world: World) -> None:
    """The requests of the kubelet for every plain pod are never refused; the pod runs, and nothing is left after
    its removal.
    """
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        container_id = await kubelet.run(sandbox_id, kubelet.container(world.programs.fails(0)))
        status = await kubelet.ended(container_id)
        assert (0, "Completed") == (status.exit_code, status.reason)
        await kubelet.services.sandboxes.stop(sandbox_id)
        await kubelet.services.sandboxes.remove(sandbox_id)
        assert [] == list(await kubelet.services.sandboxes.list(PodSandboxFilter()))
        assert [] == list(await kubelet.services.containers.list(ContainerFilter()))


async def check_stop_has_its_grace(world: World) -> None:
    """StopContainer: the stop signal, the grace period, then SIGKILL; a container that the signal ends has 128 + its number."""
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        config = kubelet.container(needed(world.programs.stubborn(), "ignore a signal"))
        container_id = await kubelet.run(sandbox_id, config)
        await world.ready(kubelet.log_of(config))
        await kubelet.services.containers.stop(container_id, 1)
        status = await kubelet.status(container_id)
        assert (ContainerState.EXITED, 137) == (status.state, status.exit_code)


async def check_hung_verb_does_not_hang_a_pod(world: World) -> None:
    """A hung verb must not block a pod: a create that never returns ends with DeadlineExceeded, and the pod can be removed."""
    hung = hanging(world.backend, "create_container")
    deadlines = Deadlines(create_container=0.2, cancel_grace=0.1)
    async with Kubelet.over(world, backend=hung, deadlines=deadlines) as kubelet:
        sandbox_id = await kubelet.pod()
        try:
            await kubelet.create(sandbox_id, kubelet.container(world.programs.sleeps()))
        except DeadlineExceeded:
            return
        raise AssertionError("a hung create must end with DeadlineExceeded")


async def check_ids_may_be_shortened(world: World) -> None:
    """An id in a request may be truncated, as long as it names one object."""
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        container_id = await kubelet.run(sandbox_id, kubelet.container(world.programs.fails(4)))
        await kubelet.ended(container_id)
        assert 4 == (await kubelet.status(container_id[:12])).exit_code


async def check_one_failure_concerns_one_container(world: World) -> None:
    """Unavailable from a verb for one container ends that call alone: the next container of the pod starts and ends."""
    away = failing(world.backend, "start_container", at=1, error=Unavailable("the engine is restarting"))
    async with Kubelet.over(world, backend=away) as kubelet:
        sandbox_id = await kubelet.pod()
        first, second = (kubelet.container(world.programs.fails(code)) for code in (3, 4))
        container_id = await kubelet.create(sandbox_id, first)
        failed = ""
        try:
            await kubelet.services.containers.start(container_id)
        except CrishimError as error:
            failed = type(error).__name__
        assert failed == "Unavailable"
        assert 4 == (await kubelet.ended(await kubelet.run(sandbox_id, second))).exit_code


async def check_removal_ends_what_runs(world: World) -> None:
    """RemovePodSandbox: forcibly terminates what runs in the pod, and succeeds a second time."""
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        config = kubelet.container(needed(world.programs.stubborn(), "ignore a signal"))
        await kubelet.run(sandbox_id, config)
        await world.ready(kubelet.log_of(config))
        for _ in range(2):
            await patiently(kubelet.services.sandboxes.stop(sandbox_id))
            await patiently(kubelet.services.sandboxes.remove(sandbox_id))
    assert () == (await patiently(world.backend.inventory())).containers


async def check_many_pods_at_once(world: World) -> None:
    """Calls for different ids run concurrently: five pods of one container, from start to removal."""
    async with Kubelet.over(world) as kubelet:

        async def live() -> int:
            sandbox_id = await kubelet.pod()
            status = await kubelet.ended(await kubelet.run(sandbox_id, kubelet.container(world.programs.fails(6))))
            await kubelet.services.sandboxes.stop(sandbox_id)
            await kubelet.services.sandboxes.remove(sandbox_id)
            return status.exit_code

        assert [6] * 5 == await asyncio.gather(*(live() for _ in range(5)))
