"""Checks of exec: what a command that runs in a container inherits, and how it ends."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from crishim.interfaces.capabilities import ProcessIO, SupportsExec
from crishim.model.container import ContainerSpec, UserSpec
from crishim.model.features import Feature
from crishim.model.process import ExecSpec, TerminalSize
from crishim.model.values import FrozenDict
from crishim.testing.conformance.candidate import World, equal, patiently
from crishim.testing.conformance.examine import Check
from crishim.testing.conformance.offers import Sink, Source, as_capable
from crishim.testing.conformance.programs import Fact, needed

_MANY: Final = 1_000_000
"""Bytes: more than any pipe has room for."""


async def check_exec_has_the_folder(world: World) -> None:
    """exec: the process inherits the container's working directory."""
    spec = await _sleeping(world, cwd="/tmp")  # noqa: S108 - in the container
    equal("/tmp", await output_of_exec(world, spec, world.shows(Fact.FOLDER)))  # noqa: S108


async def check_exec_has_the_environment(world: World) -> None:
    """exec: the process inherits the container's environment."""
    plain = world.container_spec(world.sandbox_spec(), world.programs.sleeps())
    spec = await _sleeping(world, env=FrozenDict({**plain.env, "GREETING": "a b=c"}))
    equal("a b=c", await output_of_exec(world, spec, needed(world.programs.prints_variable("GREETING"), "print a variable")))


async def check_exec_has_the_user(world: World) -> None:
    """exec: the process inherits the container's user and group."""
    spec = await _sleeping(world, user=UserSpec(user="1234", group="5678"))
    for fact, expected in ((Fact.USER, "1234"), (Fact.GROUP, "5678")):
        assert expected == await output_of_exec(world, spec, world.shows(fact))


async def check_exec_is_in_the_container(world: World) -> None:
    """exec: the process is in the container's namespaces."""
    for fact in (Fact.NETWORK, Fact.PROCESSES):
        argv = world.shows(fact)
        spec = await _sleeping(world)
        own = await output_of_exec(world, spec, argv)
        equal(own, await output_of_exec(world, spec, argv))
        assert own != await output_of_exec(world, await _sleeping(world), argv), f"two pods have the same {fact}"


async def check_exec_has_a_terminal(world: World) -> None:
    """exec, with `tty`: stdout is a terminal; without it, it is none."""
    spec = await _sleeping(world)
    argv = world.shows(Fact.TERMINAL)
    equal("yes", await output_of_exec(world, spec, argv, tty=True))
    equal("no", await output_of_exec(world, spec, argv))


async def check_exec_reads_all_of_stdin(world: World) -> None:
    """exec: all of `io.stdin` reaches the process, also more than a pipe has room for, and then its end."""
    argv = needed(world.programs.counts(), "count bytes")
    source, out = Source(), Sink()
    for _ in range(10):
        source.feed(b"x" * (_MANY // 10))
    source.end()
    spec = await _sleeping(world)
    io = ProcessIO(stdin=source, stdout=out)
    end = await patiently(as_capable(world, SupportsExec).exec(spec.id, ExecSpec(argv=argv), io))
    assert (0, str(_MANY)) == (end.code, out.data.decode().strip())


async def check_exec_writes_all_output(world: World) -> None:
    """exec: all its output is written to `io` when it returns."""
    argv = needed(world.programs.prints_much(_MANY), "print a long line")
    equal(_MANY, len(await output_of_exec(world, await _sleeping(world), argv)))


async def check_exec_leaves_children_behind(world: World) -> None:
    """exec: returns when its process has exited, even if a child of it runs on with the same streams."""
    argv = needed(world.programs.leaves_a_child("said"), "leave a child behind")
    equal("said", await output_of_exec(world, await _sleeping(world), argv))


EXEC_FEATURES: Final[Mapping[Check, Feature]] = {
    check_exec_has_the_user: Feature.USER,
    check_exec_has_a_terminal: Feature.TTY,
}
"""The feature of each check that is about one."""


async def _sleeping(world: World, **changes: Any) -> ContainerSpec:
    return await world.run(await world.sandbox(), world.programs.sleeps(), **changes)


async def output_of_exec(world: World, spec: ContainerSpec, argv: tuple[str, ...], *, tty: bool = False) -> str:
    """What a command in a container prints, without the end of the line."""
    out = Sink()
    io = ProcessIO(stdout=out, sizes=_one_size() if tty else None)
    end = await patiently(as_capable(world, SupportsExec).exec(spec.id, ExecSpec(argv=argv, tty=tty), io))
    assert 0 == end.code, f"{' '.join(argv)!r} ended with {end.code}: {out.data[:200]!r}"
    return out.data.decode().rstrip("\r\n")


async def _one_size() -> AsyncIterator[TerminalSize]:
    yield TerminalSize(80, 25)
