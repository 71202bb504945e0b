"""Checks of the CRI log file, which the backend writes."""

import re
from pathlib import Path
from typing import Any

from crishim.model.container import ContainerSpec
from crishim.model.sandbox import SandboxSpec
from crishim.model.values import FrozenDict
from crishim.testing.conformance.candidate import World, equal
from crishim.testing.conformance.programs import Fact, needed

LINE = re.compile(rb"(\S+) (stdout|stderr) ([PF](?::\S*)?) (.*)\n")


def read_log(spec: ContainerSpec) -> list[tuple[str, str]]:
    """The lines of a container's log, as of `read_lines`."""
    return read_lines(Path(spec.log_path))


def read_lines(log: Path) -> list[tuple[str, str]]:
    """A log's lines as (stream, text), partial lines joined. Raises `AssertionError` for an invalid line."""
    lines: list[tuple[str, str]] = []
    partial: dict[str, str] = {}
    for raw in log.read_bytes().splitlines(keepends=True):
        match = LINE.fullmatch(raw)
        assert match, f"not a line of a CRI log: {raw[:100]!r}"
        stream, tag, text = match[2].decode(), match[3].decode(), match[4].decode(errors="replace")
        partial[stream] = partial.get(stream, "") + text
        if tag.startswith("F"):
            lines.append((stream, partial.pop(stream)))
    lines.extend(partial.items())
    return lines


async def output_of(world: World, sandbox: SandboxSpec, argv: tuple[str, ...], **changes: Any) -> str:
    """What a container prints to stdout, as its log has it. Raises `AssertionError` if it ends with another code than 0."""
    spec = await world.run(sandbox, argv, **changes)
    end = await world.wait(spec.id)
    lines = read_log(spec)
    assert 0 == end.code, f"{' '.join(argv)!r} ended with {end.code}: {lines}"
    return "\n".join(text for stream, text in lines if stream == "stdout")


async def check_output_is_logged(world: World) -> None:
    """wait_container returns when all output is in the log, in CRI's format, each line with its stream."""
    sandbox = await world.sandbox()
    out = await world.run(sandbox, world.programs.prints("to-stdout"))
    err = await world.run(sandbox, world.programs.complains("to-stderr"))
    await world.wait(out.id)
    await world.wait(err.id)
    assert [("stdout", "to-stdout")] == read_log(out)
    assert [("stderr", "to-stderr")] == read_log(err)


async def check_log_outlives_the_container(world: World) -> None:
    """remove_container frees all resources of the container, but never its log file, which belongs to the kubelet."""
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.prints("output"))
    await world.wait(spec.id)
    await world.backend.remove_container(spec.id)
    assert [("stdout", "output")] == read_log(spec)


async def check_no_log_is_asked_for(world: World) -> None:
    """A container without a log path runs, and writes no log."""
    sandbox = await world.sandbox()
    spec = await world.run(sandbox, world.programs.prints("unheard"), log_path="")
    assert 0 == (await world.wait(spec.id)).code


async def check_environment_is_given(world: World) -> None:
    """The spec's environment reaches the process unchanged."""
    argv = needed(world.programs.prints_variable("GREETING"), "print a variable")
    sandbox = await world.sandbox()
    spec = world.container_spec(sandbox, argv)
    printing = await world.run(sandbox, argv, env=FrozenDict({**spec.env, "GREETING": "a b=c"}))
    await world.wait(printing.id)
    assert [("stdout", "a b=c")] == read_log(printing)


async def check_folder_is_given(world: World) -> None:
    """The process runs in the spec's working directory."""
    argv = world.shows(Fact.FOLDER)
    equal("/tmp", await output_of(world, await world.sandbox(), argv, cwd="/tmp"))  # noqa: S108 - in the container


async def check_no_descriptor_is_inherited(world: World) -> None:
    """A process has its three standard streams, and no other descriptor: one of a folder leads out of the container."""
    argv = world.shows(Fact.DESCRIPTORS)
    assert 4 >= int(await output_of(world, await world.sandbox(), argv))


async def check_long_output_is_complete(world: World) -> None:
    """wait_container returns when all output is in the log: a line of a hundred thousand characters, too, as partial lines."""
    argv = needed(world.programs.prints_much(100_000), "print a long line")
    equal(100_000, len(await output_of(world, await world.sandbox(), argv)))
