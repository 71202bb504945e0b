"""Checks of the CRI log file, which the backend writes."""

import re
from pathlib import Path

from crishim.model.container import ContainerSpec
from crishim.model.values import FrozenDict
from crishim.testing.conformance.candidate import World

LINE = re.compile(rb"(\S+) (stdout|stderr) ([PF](?::\S*)?) (.*)\n")


def read_log(spec: ContainerSpec) -> list[tuple[str, str]]:
    """A log's lines as (stream, text), partial lines joined. Raises `AssertionError` for an invalid line."""
    lines: list[tuple[str, str]] = []
    partial: dict[str, str] = {}
    for raw in Path(spec.log_path).read_bytes().splitlines(keepends=True):
        match = LINE.fullmatch(raw)
        assert match, f"not a line of a CRI log: {raw[:100]!r}"
        stream, tag, text = match[2].decode(), match[3].decode(), match[4].decode(errors="replace")
        partial[stream] = partial.get(stream, "") + text
        if tag.startswith("F"):
            lines.append((stream, partial.pop(stream)))
    lines.extend(partial.items())
    return lines


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
    argv = world.programs.prints_variable("GREETING")
    if argv is None:
        return
    sandbox = await world.sandbox()
    spec = world.container_spec(sandbox, argv)
    printing = await world.run(sandbox, argv, env=FrozenDict({**spec.env, "GREETING": "a b=c"}))
    await world.wait(printing.id)
    assert [("stdout", "a b=c")] == read_log(printing)
