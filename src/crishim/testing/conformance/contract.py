"""Checks of the ten verbs. Each docstring is the sentence of the contract that it checks."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from crishim.errors import CrishimError, NotFound
from crishim.interfaces.backend import NetnsSource
from crishim.model.container import ContainerState, Inventory
from crishim.model.features import Feature
from crishim.model.values import ContainerId, SandboxId
from crishim.testing.conformance.candidate import World, patiently, still_runs
from crishim.testing.conformance.programs import needed

NOBODY = "f" * 64
TERM, KILL = 15, 9


async def check_probe_identifies_the_backend(world: World) -> None:
    """probe: name, version and supported features; name and version are non-empty."""
    assert world.info.name
    assert world.info.version
    assert world.info.netns in NetnsSource
    assert world.info.supported <= frozenset(Feature)


async def check_inventory_begins_empty(world: World) -> None:
    """inventory: everything that exists in the backend; at the beginning nothing of ours."""
    inventory = await patiently(world.backend.inventory())
    assert isinstance(inventory, Inventory)
    assert [] == [seen.id for seen in inventory.sandboxes if seen.ours]
    assert [] == [seen.id for seen in inventory.containers if seen.ours]


async def check_sandbox_lifecycle(world: World) -> None:
    """A started sandbox is ready, a stopped one stays known until it is removed, a removed one does not exist."""
    spec = await world.sandbox()
    ready = {seen.id: seen.ready for seen in (await patiently(world.backend.inventory())).sandboxes}
    assert {spec.id: True} == ready
    await patiently(world.backend.stop_sandbox(spec.id))
    ready = {seen.id: seen.ready for seen in (await patiently(world.backend.inventory())).sandboxes}
    assert ready in ({spec.id: False}, {})
    with contextlib.suppress(NotFound):
        await patiently(world.backend.remove_sandbox(spec.id))
    assert () == (await patiently(world.backend.inventory())).sandboxes


async def check_backend_netns_is_reported(world: World) -> None:
    """With NetnsSource.BACKEND the result of start_sandbox names the network namespace."""
    spec = await world.sandbox()
    if world.info.netns is NetnsSource.BACKEND and not spec.host_network:
        assert spec.netns.startswith("/")


async def check_unknown_ids_are_not_found(world: World) -> None:
    """Raise NotFound for an object that does not exist."""
    backend = world.backend
    sandbox_id, container_id = SandboxId(NOBODY), ContainerId(NOBODY)
    verbs: dict[str, Callable[[], Awaitable[object]]] = {
        "stop_sandbox": lambda: backend.stop_sandbox(sandbox_id),
        "remove_sandbox": lambda: backend.remove_sandbox(sandbox_id),
        "start_container": lambda: backend.start_container(container_id),
        "kill_container": lambda: backend.kill_container(container_id, TERM),
        "wait_container": lambda: backend.wait_container(container_id),
        "remove_container": lambda: backend.remove_container(container_id),
    }
    for name, verb in verbs.items():
        try:
            await patiently(verb())
        except NotFound:
            continue
        raise AssertionError(f"{name} does not raise NotFound for an unknown id")


async def check_created_container_does_not_run(world: World) -> None:
    """create_container: no process of the container runs yet; a container that was never started can be removed."""
    sandbox = await world.sandbox()
    spec = await world.create(sandbox, world.programs.sleeps())
    seen = await world.seen(spec.id)
    assert seen is not None
    assert (ContainerState.CREATED, sandbox.id) == (seen.state, seen.sandbox_id)
    await patiently(world.backend.remove_container(spec.id))
    assert None is await world.seen(spec.id)


async def check_started_container_runs_until_killed(world: World) -> None:
    """start_container runs the process; kill_container sends one signal; wait_container returns 128 + its number."""
    sandbox = await world.sandbox()
    spec = await world.run_ready(sandbox, world.programs.sleeps())
    await still_runs(world, spec.id)
    await patiently(world.backend.kill_container(spec.id, TERM))
    assert 128 + TERM == (await world.wait(spec.id)).code
    seen = await world.seen(spec.id)
    assert seen is not None
    assert ContainerState.EXITED is seen.state


async def check_sigkill_ends_the_stubborn(world: World) -> None:
    """kill_container: SIGKILL ends all processes of the container, even if it ignores SIGTERM."""
    sandbox = await world.sandbox()
    spec = await world.run_ready(sandbox, needed(world.programs.stubborn(), "ignore a signal"))
    await patiently(world.backend.kill_container(spec.id, TERM))
    await still_runs(world, spec.id)
    await patiently(world.backend.kill_container(spec.id, KILL))
    assert 128 + KILL == (await world.wait(spec.id)).code


async def check_exit_codes_are_reported(world: World) -> None:
    """wait_container returns the process's own exit code."""
    sandbox = await world.sandbox()
    for code in (0, 7, 255):
        spec = await world.run(sandbox, world.programs.fails(code))
        assert code == (await world.wait(spec.id)).code


async def check_wait_is_sticky(world: World) -> None:
    """wait_container: any number of waiters, at any time, also after the exit, until the removal."""
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.sleeps())
    waits = [asyncio.ensure_future(world.wait(spec.id)) for _ in range(5)]
    await asyncio.sleep(0)
    waits[0].cancel()
    await patiently(world.backend.kill_container(spec.id, KILL))
    codes = {(await wait).code for wait in waits[1:]}
    assert {128 + KILL} == codes
    assert waits[0].cancelled() or (await asyncio.wait({waits[0]}))[0]
    assert 128 + KILL == (await world.wait(spec.id)).code
    await patiently(world.backend.remove_container(spec.id))
    try:
        await world.wait(spec.id)
    except NotFound:
        return
    raise AssertionError("a wait for a removed container must raise NotFound")


async def check_killing_the_dead_is_harmless(world: World) -> None:
    """kill_container: for a container that has exited, raise NotFound or do nothing."""
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.fails(3))
    await world.wait(spec.id)
    with contextlib.suppress(NotFound):
        await patiently(world.backend.kill_container(spec.id, KILL))
    assert 3 == (await world.wait(spec.id)).code


async def check_missing_program_fails_the_start(world: World) -> None:
    """start_container: a program that cannot be run fails the start, not the creation, and is no exit; the container can be
    removed.
    """
    sandbox = await world.sandbox()
    spec = await world.create(sandbox, world.programs.missing())
    failure = None
    try:
        await patiently(world.backend.start_container(spec.id))
    except CrishimError as error:
        failure = error
    assert failure is not None, "a missing program was started"
    assert not isinstance(failure, NotFound), "the container exists, only its program does not"
    assert failure.message
    seen = await world.seen(spec.id)
    assert seen is None or seen.state is not ContainerState.RUNNING


async def check_containers_are_apart(world: World) -> None:
    """Calls for different ids run concurrently: two containers of one sandbox run and exit separately."""
    sandbox = await world.sandbox()
    one, other = await asyncio.gather(world.run(sandbox, world.programs.sleeps()), world.run(sandbox, world.programs.sleeps()))
    await patiently(world.backend.kill_container(one.id, KILL))
    await world.wait(one.id)
    await still_runs(world, other.id)


async def check_many_at_once(world: World) -> None:
    """Calls for different ids run concurrently: twenty containers at once."""
    sandbox = await world.sandbox()

    async def live() -> int:
        spec = await world.run(sandbox, world.programs.fails(5))
        return (await world.wait(spec.id)).code

    assert [5] * 20 == await asyncio.gather(*(live() for _ in range(20)))


async def check_cancelled_start_can_be_removed(world: World) -> None:
    """A start may be cancelled at any time; the removal of the same id then frees everything."""
    sandbox = await world.sandbox()
    for rounds in (0, 1, 3, 10):
        spec = await world.create(sandbox, world.programs.sleeps())
        start = asyncio.ensure_future(world.backend.start_container(spec.id))
        for _ in range(rounds):
            await asyncio.sleep(0)
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError, CrishimError):
            await start
    # leaving the world kills, removes, and asserts that nothing is left


async def check_restart_finds_everything(world: World) -> None:
    """Inventory after a restart: running containers are RUNNING and can be waited for, exits are still known."""
    sandbox = await world.sandbox()
    running = await world.run(sandbox, world.programs.sleeps())
    ended = await world.run(sandbox, world.programs.fails(9))
    await world.wait(ended.id)
    if not world.candidate.survives_restart:
        await patiently(world.backend.kill_container(running.id, KILL))
        await world.wait(running.id)
        await world.restart()
        seen = await world.seen(running.id)
        assert seen is None or seen.state is ContainerState.EXITED
        return
    await world.restart()
    await still_runs(world, running.id)
    if world.candidate.restores_exit:
        after = await world.seen(ended.id)
        assert after is not None
        assert ContainerState.EXITED is after.state
        assert after.exit is not None
        assert 9 == after.exit.code
    await patiently(world.backend.kill_container(running.id, KILL))
    assert (await world.wait(running.id)).code in ({128 + KILL} if world.candidate.restores_exit else {128 + KILL, 255})
