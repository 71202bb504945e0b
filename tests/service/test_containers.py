"""Containers: states, grace, start failures, limits."""

import asyncio

import attrs
import pytest

from crishim.config import Deadlines
from crishim.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
    Unknown,
)
from crishim.model.container import ContainerFilter, ContainerState, LinuxContainerConfig
from crishim.model.image import ImageConfig, ImageSpec
from crishim.model.process import Signal
from crishim.model.resources import Resources
from crishim.model.security import LinuxContainerSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import EMPTY, ContainerId
from crishim.store.memory import MemoryStore
from crishim.testing import FakeBackend, Harness, failing, hanging
from crishim.testing.doubles import settle


async def state(world: Harness, container_id: ContainerId) -> tuple[ContainerState, int, str]:
    seen = (await world.services.containers.status(container_id, verbose=False)).status
    return seen.state, seen.exit_code, seen.reason


async def test_created_container_has_no_times() -> None:
    """A created container has started_at and finished_at zero (rpc.md 5, CreateContainer)."""
    async with Harness() as world:
        container_id = await world.create_container(await world.run_sandbox())
        seen = (await world.services.containers.status(container_id, verbose=True)).status
        assert (ContainerState.CREATED, 0, 0) == (seen.state, seen.started_at, seen.finished_at)
        assert seen.created_at == world.clock.now()
        assert seen.image_ref.startswith("registry.example/image@sha256:")


async def test_fifty_identical_creates_make_one_container() -> None:
    """Parallel CreateContainer calls for one name join, and a later repetition finds the same id."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        ids = await asyncio.gather(*(world.create_container(sandbox_id) for _ in range(50)))
        assert 1 == len(set(ids))
        assert ids[0] == await world.create_container(sandbox_id)
        with pytest.raises(AlreadyExists):
            await world.create_container(sandbox_id, "main", "other")


async def test_container_starts_once() -> None:
    """Only a CREATED container can be started; calls at the same moment share the start (rpc.md 5, StartContainer)."""
    async with Harness() as world:
        container_id = await world.create_container(await world.run_sandbox())
        await asyncio.gather(*(world.services.containers.start(container_id) for _ in range(5)))
        assert 1 == world.fake.verbs(container_id).count("start_container")
        with pytest.raises(FailedPrecondition):
            await world.services.containers.start(container_id)


async def test_failed_start_is_an_exit() -> None:
    """A failed start leaves the container EXITED with code 128 and reason StartError, and returns the error (rpc.md 5)."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(failing(fake, "start_container"))
    world.fake = fake
    async with world:
        container_id = await world.create_container(await world.run_sandbox())
        with pytest.raises(Unknown):
            await world.services.containers.start(container_id)
        assert (ContainerState.EXITED, 128, "StartError") == await state(world, container_id)
        await world.services.containers.remove(container_id)


async def test_exit_reasons() -> None:
    """Reason of an exit: OOMKilled for SIGKILL with it, Completed for code 0, Error for others (rpc.md 5, ContainerStatus)."""
    ends = (
        ("a", 0, False, "Completed"),
        ("b", 3, False, "Error"),
        ("c", 137, True, "OOMKilled"),
        ("d", 0, True, "Completed"),
        ("e", 143, True, "Error"),
    )
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        for name, code, oom, reason in ends:
            container_id = await world.run_container(sandbox_id, name)
            world.fake.exits(name, code, oom=oom)
            await settle()
            assert (ContainerState.EXITED, code, reason) == await state(world, container_id)


async def test_stop_sends_the_signal_once_and_then_kills() -> None:
    """StopContainer: stop signal, grace, SIGKILL; a second call shortens the wait and sends no second signal (rpc.md 5)."""
    async with Harness() as world:
        container_id = await world.run_container(await world.run_sandbox(), "main", "stubborn")
        patient = asyncio.ensure_future(world.services.containers.stop(container_id, 30))
        await settle()
        hasty = asyncio.ensure_future(world.services.containers.stop(container_id, 2))
        await world.clock.advance(1)
        assert not (patient.done())
        assert not (hasty.done())
        await world.clock.advance(2)
        await asyncio.gather(patient, hasty)
        assert 2 == world.fake.verbs(container_id).count("kill_container")
        assert (ContainerState.EXITED, 137, "Error") == await state(world, container_id)


async def test_stop_signal_that_failed_is_sent_again() -> None:
    """A stop signal that could not be sent is sent by the next StopContainer."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(failing(fake, "kill_container", at=1, error=DeadlineExceeded("too slow")))
    world.fake = fake
    async with world:
        container_id = await world.run_container(await world.run_sandbox())
        with pytest.raises(DeadlineExceeded):
            await world.services.containers.stop(container_id, 5)
        again = asyncio.ensure_future(world.services.containers.stop(container_id, 5))
        await settle()
        assert again.done()
        assert (ContainerState.EXITED, 143, "Error") == await state(world, container_id)


async def test_stop_without_grace_kills() -> None:
    """A timeout of zero or less is SIGKILL at once; the created, the ended and the unknown are no error (rpc.md 5)."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        running = await world.run_container(sandbox_id, "main", "stubborn")
        created = await world.create_container(sandbox_id, "idle")
        await world.services.containers.stop(running, 0)
        await world.services.containers.stop(running, 0)
        await world.services.containers.stop(created, 5)
        await world.services.containers.stop(world.ids.container_id(), 5)
        assert (ContainerState.EXITED, 137, "Error") == await state(world, running)
        assert (ContainerState.CREATED, 0, "") == await state(world, created)


@pytest.mark.parametrize(
    ("requested", "image", "expected"),
    [
        (Signal.RUNTIME_DEFAULT, "", Signal.SIGTERM),
        (Signal.RUNTIME_DEFAULT, "SIGQUIT", Signal.SIGQUIT),
        (Signal.RUNTIME_DEFAULT, "SIGRTMIN+3", Signal.SIGRTMINPLUS3),
        (Signal.SIGUSR1, "SIGQUIT", Signal.SIGUSR1),
    ],
)
async def test_stop_signal_order(requested: Signal, image: str, expected: Signal) -> None:
    """The stop signal is the container's, else the image's, else SIGTERM (rpc.md 5, StopContainer)."""
    async with Harness() as world:
        world.images.add("registry.example/other:1", ImageConfig(cmd=("sleep",), stop_signal=image))
        sandbox_id = await world.run_sandbox()
        spec = ImageSpec(image="registry.example/other:1")
        container_id = await world.create_container(sandbox_id, image=spec, stop_signal=requested)
        assert expected == (await world.services.containers.status(container_id, verbose=False)).status.stop_signal


async def test_removal_of_a_running_container_kills_it() -> None:
    """RemoveContainer kills what runs; unknown ids and repetitions are no error (rpc.md 5, RemoveContainer)."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id, "main", "stubborn")
        await asyncio.gather(*(world.services.containers.remove(container_id) for _ in range(5)))
        with pytest.raises(NotFound):
            await world.services.containers.status(container_id, verbose=False)
        assert {} == world.fake.containers
        assert await world.run_container(sandbox_id, "main", "stubborn")


async def test_removal_overtakes_a_hung_start() -> None:
    """A removal cancels a start under way, whose result is StartError, and then removes."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(hanging(fake, "start_container"))
    world.fake = fake
    async with world:
        container_id = await world.create_container(await world.run_sandbox())
        start = asyncio.ensure_future(world.services.containers.start(container_id))
        await settle()
        await world.services.containers.remove(container_id)
        assert (await asyncio.gather(start, return_exceptions=True))[0].__class__.__name__ == "Aborted"
        assert {} == fake.containers


async def test_limits_of_a_container_that_is_being_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """UpdateContainerResources behind a removal is refused, and brings no record back (rpc.md 5)."""
    store = MemoryStore()
    async with Harness(store=store) as world:
        container_id = await world.run_container(await world.run_sandbox())
        await world.services.containers.stop(container_id, 0)
        real, go = world.fake.remove_container, asyncio.Event()

        async def slow(removed: ContainerId) -> None:
            await go.wait()
            await real(removed)

        monkeypatch.setattr(world.fake, "remove_container", slow)
        removal = asyncio.ensure_future(world.services.containers.remove(container_id))
        await settle()
        update = asyncio.ensure_future(world.services.containers.update_resources(container_id, Resources(cpu_shares=9), EMPTY))
        await settle()
        go.set()
        await removal
        with pytest.raises(FailedPrecondition, match="removing"):
            await update
        assert () == (await store.load()).containers


async def test_creation_at_the_moment_of_a_stop() -> None:
    """A CreateContainer that comes in one moment with the stop of its sandbox makes nothing in it."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        stop = asyncio.ensure_future(world.services.sandboxes.stop(sandbox_id))
        creation = asyncio.ensure_future(world.create_container(sandbox_id))
        with pytest.raises(Aborted):
            await creation
        await stop
        assert {} == world.fake.containers


async def test_hung_create_is_undone() -> None:
    """A creation that never returns ends with DeadlineExceeded; the name is free again."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(hanging(fake, "create_container"))
    world.fake = fake
    world.settings = attrs.evolve(world.settings, deadlines=Deadlines(create_container=0.05, cancel_grace=0.05))
    async with world:
        sandbox_id = await world.run_sandbox()
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                await world.create_container(sandbox_id)
        assert [] == list(await world.services.containers.list(ContainerFilter()))


async def test_vanished_container_ended_somehow() -> None:
    """A container that was removed by another program has an unknown exit: 255, Unknown."""
    async with Harness() as world:
        container_id = await world.run_container(await world.run_sandbox())
        world.fake.vanish(container_id)
        await settle()
        assert (ContainerState.EXITED, 255, "Unknown") == await state(world, container_id)
        await world.services.containers.remove(container_id)


async def test_unknown_image_is_not_found() -> None:
    """CreateContainer looks images up locally only; an unknown one is NotFound, and no name is taken."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        with pytest.raises(NotFound, match="image"):
            await world.create_container(sandbox_id, image=ImageSpec(image="registry.example/nobody"))
        assert await world.create_container(sandbox_id)


@pytest.mark.parametrize("path", ["/absolute.log", "../escape.log", "a/../../b.log", "..", "a\0b"])
async def test_log_paths_stay_below_the_sandbox(path: str) -> None:
    """A log path is relative and stays below the sandbox's log directory."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox(log_directory="/var/log/pods/x")
        with pytest.raises(InvalidArgument, match="log_path"):
            await world.create_container(sandbox_id, log_path=path)


async def test_privileged_needs_a_privileged_sandbox() -> None:
    """A privileged container in a sandbox that is not is refused (rpc.md 5, CreateContainer)."""
    async with Harness() as world:
        linux = LinuxContainerConfig(security_context=LinuxContainerSecurityContext(privileged=True))
        with pytest.raises(InvalidArgument, match="privileged"):
            await world.create_container(await world.run_sandbox(), linux=linux)


async def test_target_pid_names_a_running_container_of_the_pod() -> None:
    """Pid mode TARGET: the target is in the same sandbox and runs (mapping.md 8)."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        target = await world.run_container(sandbox_id, "target")

        def linux(target_id: str) -> LinuxContainerConfig:
            options = NamespaceOption(pid=NamespaceMode.TARGET, target_id=target_id)
            return LinuxContainerConfig(security_context=LinuxContainerSecurityContext(namespace_options=options))

        assert await world.create_container(sandbox_id, "debug", linux=linux(target))
        with pytest.raises(InvalidArgument, match="target_id"):
            await world.create_container(sandbox_id, "lost", linux=linux("nobody"))
        await world.services.containers.stop(target, 0)
        with pytest.raises(FailedPrecondition):
            await world.create_container(sandbox_id, "late", linux=linux(target))


async def test_limits_change_what_they_name() -> None:
    """UpdateContainerResources: zero values leave theirs; status shows the outcome; a failed change changes nothing."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(failing(fake, "update_container", at=2))
    world.fake = fake
    async with world:
        limits = Resources(cpu_shares=2, memory_limit_in_bytes=1000, oom_score_adj=5)
        linux = LinuxContainerConfig(resources=limits)
        container_id = await world.run_container(await world.run_sandbox(), linux=linux)
        update = world.services.containers.update_resources
        await update(container_id, Resources(cpu_shares=9), EMPTY)
        expected = attrs.evolve(limits, cpu_shares=9)
        assert expected == fake.containers[container_id].resources
        with pytest.raises(Unknown):
            await update(container_id, Resources(cpu_shares=11), EMPTY)
        assert expected == (await world.services.containers.status(container_id, verbose=False)).status.resources


async def test_a_change_of_limits_outlives_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that disconnects during UpdateContainerResources leaves no limits that the status does not have."""
    async with Harness() as world:
        container_id = await world.run_container(await world.run_sandbox())
        real, go = world.fake.update_container, asyncio.Event()

        async def slow(updated: ContainerId, resources: Resources) -> None:
            await real(updated, resources)
            await go.wait()

        monkeypatch.setattr(world.fake, "update_container", slow)
        change = Resources(cpu_shares=9)
        update = asyncio.ensure_future(world.services.containers.update_resources(container_id, change, EMPTY))
        await settle()
        update.cancel()
        with pytest.raises(asyncio.CancelledError):
            await update
        go.set()
        await settle()
        assert 9 == (await world.services.containers.status(container_id, verbose=False)).status.resources.cpu_shares


async def test_unclaimed_capability_is_unimplemented_by_name() -> None:
    """What no backend claims answers Unimplemented with the capability's name."""
    world = Harness(FakeBackend(capabilities=frozenset(), logs_to_disk=False))
    async with world:
        container_id = await world.run_container(await world.run_sandbox())
        with pytest.raises(Unimplemented, match="SupportsExec"):
            await world.services.streams.exec_sync(container_id, ("true",), 0)
        with pytest.raises(Unimplemented, match="SupportsUpdate"):
            await world.services.containers.update_resources(container_id, Resources(), EMPTY)
        with pytest.raises(Unimplemented, match="SupportsLogReopen"):
            await world.services.containers.reopen_log(container_id)
