"""Checks over a restart of crishim: no pod loses anything by it."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

from crishim.interfaces.capabilities import ProcessIO, SupportsAttach, SupportsExec, SupportsLogReopen
from crishim.model.container import ContainerSpec, ContainerState
from crishim.model.process import ExecSpec
from crishim.model.sandbox import SandboxSpec
from crishim.testing.conformance.candidate import World, equal, patiently, still_runs, until
from crishim.testing.conformance.examine import Restart
from crishim.testing.conformance.logs import output_of, read_log
from crishim.testing.conformance.offers import Sink, Source, as_capable
from crishim.testing.conformance.programs import Fact, needed

_KILL: Final = 9


async def _prints_twice(world: World) -> ContainerSpec:
    argv = needed(world.programs.prints_later("before", "after", 7), "print a line later")
    spec = await world.run(await world.sandbox(), argv)
    log = Path(spec.log_path)
    await until(lambda: log.exists() and ("stdout", "before") in read_log(spec))
    return spec


async def _has_printed_twice(world: World, spec: ContainerSpec) -> None:
    end = await world.wait(spec.id)
    assert [("stdout", "before"), ("stdout", "after")] == read_log(spec)
    assert end.code in ({7} if world.candidate.restores_exit else {7, 255})


async def _sleeps(world: World) -> ContainerSpec:
    return await world.run_ready(await world.sandbox(), world.programs.sleeps())


async def _still_runs(world: World, spec: ContainerSpec) -> None:
    seen = await world.seen(spec.id)
    assert seen is not None, "a container that was running is unknown after the restart"
    assert ContainerState.RUNNING is seen.state
    ready = {seen.id: seen.ready for seen in (await patiently(world.backend.inventory())).sandboxes}
    assert {spec.sandbox.id: True} == ready
    await patiently(world.backend.kill_container(spec.id, _KILL))
    assert (await world.wait(spec.id)).code in ({137} if world.candidate.restores_exit else {137, 255})


async def _takes_an_exec(world: World, spec: ContainerSpec) -> None:
    out = Sink()
    said = ExecSpec(argv=world.programs.prints("said"))
    end = await patiently(as_capable(world, SupportsExec).exec(spec.id, said, ProcessIO(stdout=out)))
    assert (0, b"said\n") == (end.code, out.data)


async def _created(world: World) -> ContainerSpec:
    return await world.create(await world.sandbox(), world.programs.prints("started"))


async def _is_started(world: World, spec: ContainerSpec) -> None:
    seen = await world.seen(spec.id)
    assert seen is not None, "a container that was created is unknown after the restart"
    assert ContainerState.CREATED is seen.state
    await patiently(world.backend.start_container(spec.id))
    assert 0 == (await world.wait(spec.id)).code
    assert [("stdout", "started")] == read_log(spec)


async def _shows_its_network(world: World) -> tuple[SandboxSpec, str]:
    argv = world.shows(Fact.NETWORK)
    sandbox = await world.sandbox()
    return sandbox, await output_of(world, sandbox, argv)


async def _has_the_same_network(world: World, before: tuple[SandboxSpec, str]) -> None:
    sandbox, network = before
    argv = world.shows(Fact.NETWORK)
    equal(network, await output_of(world, sandbox, argv))


async def _copies(world: World) -> ContainerSpec:
    return await world.run(await world.sandbox(), world.programs.copies(), stdin=True)


async def _copies_on(world: World, spec: ContainerSpec) -> None:
    source, out = Source(), Sink()
    attached = asyncio.ensure_future(as_capable(world, SupportsAttach).attach(spec.id, ProcessIO(stdin=source, stdout=out)))
    source.feed(b"hello\n")
    await out.has(b"hello\n")
    await patiently(world.backend.kill_container(spec.id, _KILL))
    await patiently(attached)


async def _ticks(world: World) -> ContainerSpec:
    return await world.run(await world.sandbox(), needed(world.programs.ticks("tick"), "print repeatedly"))


async def _is_reopened(world: World, spec: ContainerSpec) -> None:
    log = Path(spec.log_path)
    await until(log.exists)
    log.rename(log.with_name("0.log.old"))
    await patiently(as_capable(world, SupportsLogReopen).reopen_log(spec.id))
    assert log.exists()
    await until(lambda: ("stdout", "tick") in read_log(spec))


async def _ended(world: World) -> ContainerSpec:
    spec = await world.run(await world.sandbox(), world.programs.fails(9))
    await world.wait(spec.id)
    return spec


async def _has_its_exit(world: World, spec: ContainerSpec) -> None:
    seen = await world.seen(spec.id)
    if world.candidate.restores_exit:
        assert seen is not None, "a container that had exited is unknown after the restart"
        assert ContainerState.EXITED is seen.state
        assert seen.exit is not None
        assert 9 == seen.exit.code


async def _gone(world: World) -> SandboxSpec:
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.fails(0))
    await world.wait(spec.id)
    await patiently(world.backend.remove_container(spec.id))
    await patiently(world.backend.stop_sandbox(sandbox.id))
    await patiently(world.backend.remove_sandbox(sandbox.id))
    return sandbox


async def _stays_gone(world: World, sandbox: SandboxSpec) -> None:
    inventory = await patiently(world.backend.inventory())
    assert sandbox.id not in {seen.id for seen in inventory.sandboxes}
    assert [] == [seen.id for seen in inventory.containers if seen.ours]


async def _two_pods(world: World) -> tuple[ContainerSpec, ContainerSpec]:
    return await _sleeps(world), await _sleeps(world)


async def _are_apart(world: World, both: tuple[Any, ...]) -> None:
    one, other = both
    await patiently(world.backend.kill_container(one.id, _KILL))
    await world.wait(one.id)
    await still_runs(world, other.id)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await world.backend.wait_container(other.id)
        raise AssertionError("the wait for a running container returned when another one exited")


RESTARTS: Final = (
    Restart(
        "check_restart_loses_no_output",
        "A restart loses no output: what a container prints meanwhile is in its log, and its exit is known.",
        _prints_twice,
        _has_printed_twice,
    ),
    Restart(
        "check_restart_ends_nothing",
        "A restart ends nothing: sandboxes stay ready, running containers are RUNNING, and can be killed and waited for.",
        _sleeps,
        _still_runs,
    ),
    Restart(
        "check_restart_keeps_what_was_created",
        "A container that was created before a restart is CREATED after it, and can be started.",
        _created,
        _is_started,
    ),
    Restart(
        "check_restart_keeps_exits",
        "inventory: an exit that was known before a restart is known after it.",
        _ended,
        _has_its_exit,
    ),
    Restart(
        "check_restart_revives_nothing",
        "inventory: what was removed before a restart does not exist after it.",
        _gone,
        _stays_gone,
    ),
    Restart(
        "check_restart_keeps_containers_apart",
        "wait_container, after a restart: each container's own exit.",
        _two_pods,
        _are_apart,
    ),
    Restart(
        "check_restart_keeps_the_pods_network",
        "A container that is created after a restart has the network namespace of its pod's older containers.",
        _shows_its_network,
        _has_the_same_network,
    ),
    Restart(
        "check_restart_allows_execs",
        "exec: a container that was started before a restart takes an exec after it.",
        _sleeps,
        _takes_an_exec,
    ),
    Restart(
        "check_restart_allows_attach",
        "attach: a container that was started before a restart can be attached to after it, with its stdin.",
        _copies,
        _copies_on,
    ),
    Restart(
        "check_restart_allows_rotation",
        "reopen_log: after a restart the output of a running container goes to the new file.",
        _ticks,
        _is_reopened,
    ),
)
"""Every check over a restart."""
