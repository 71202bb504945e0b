# ruff: noqa: ASYNC221 - nothing else runs on these loops, so a blocking call delays nothing
"""Containers that are children of ours."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.backends.runc.command import RuntimeCommand
from crishim.backends.runc.runtime import RuncRuntime
from crishim.errors import CrishimError, InvalidArgument, NotFound, Unavailable
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import Stdio
from crishim.linux.children import become_subreaper
from crishim.logs.descriptors import DescriptorReader, DescriptorWriter
from crishim.model.process import TerminalSize
from crishim.model.values import ContainerId
from crishim.pods.host import host
from tests.backends.runc.world import needs
from tests.conformance.test_runtimes import busybox
from tests.node.world import processes

pytestmark = [pytest.mark.node, needs("runc", "busybox")]

MONITORED_BY_PARENT = Stdio(monitored_by_parent=True)
MIB = 1 << 20


@attrs.frozen
class Bundles:
    """A runtime, and bundles of a busybox in `folder`."""

    folder: Path
    runtime: RuncRuntime

    async def created(
        self, name: str, *argv: str, stdio: Stdio = MONITORED_BY_PARENT, change: Callable[[Any], None] = lambda _: None
    ) -> str:
        """A container that was created; its id."""
        bundle = self.folder / name
        busybox(bundle / "rootfs")
        subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"args": list(argv), "terminal": stdio.terminal, "env": ["PATH=/bin"]}
        config["linux"]["cgroupsPath"] = f"/crishim-attended/{name}"
        change(config)
        (bundle / "config.json").write_text(json.dumps(config))
        await self.runtime.create(name, bundle, stdio)
        return name


@pytest.fixture
async def bundles(tmp_path: Path) -> AsyncIterator[Bundles]:
    become_subreaper()
    containers = Bundles(tmp_path, RuncRuntime(RuntimeCommand("runc", tmp_path / "state"), tmp_path / "s", host()))
    yield containers
    for name in [path.name for path in (tmp_path / "state").glob("*")]:
        await containers.runtime.delete(name)


async def test_it_has_no_monitor(bundles: Bundles) -> None:
    """For a container monitored by its parent no other process runs, and its exit and waits are as with a monitor."""
    name = await bundles.created("plain", "sh", "-c", "exit 5")
    assert [] == [line for _, line in processes(str(bundles.folder)) if "conmon" in line]
    waiting = asyncio.ensure_future(bundles.runtime.wait(name))
    await bundles.runtime.start(name)
    assert (5, 5) == ((await waiting).code, (await bundles.runtime.wait(name)).code)
    await bundles.runtime.delete(name)


@pytest.mark.parametrize("cgroup", ["/crishim-attended/greedy", "test.slice:crishim:greedy"])
async def test_an_oom_kill_is_reported(bundles: Bundles, cgroup: str) -> None:
    """The exit says so, by the cgroup's counter, wherever the runtime has created that."""

    def little(config: Any) -> None:
        config["linux"]["cgroupsPath"] = cgroup
        # runc's own init is in it first, with a copy of its program where it can make none that is shared
        config["linux"]["resources"]["memory"] = {"limit": 32 * MIB, "swap": 32 * MIB}

    name = await bundles.created("greedy", "dd", "if=/dev/zero", "of=/dev/null", f"bs={64 * MIB}", "count=1", change=little)
    await bundles.runtime.start(name)
    end = await bundles.runtime.wait(name)
    assert (128 + signal.SIGKILL, True) == (end.code, end.oom)


async def test_a_terminal_is_here(bundles: Bundles) -> None:
    """An attached client of a container with a terminal has its input, its output and its size, until it ends."""
    script = "while test x$(stty size | head -c 2) != x25; do :; done; stty size; read line; echo got $line; exit 3"
    name = await bundles.created("term", "sh", "-c", script, stdio=Stdio(terminal=True, monitored_by_parent=True))
    sizes: asyncio.Queue[TerminalSize] = asyncio.Queue()
    sizes.put_nowait(TerminalSize(width=80, height=25))

    async def queued() -> AsyncIterator[TerminalSize]:
        while True:
            yield await sizes.get()

    (typed, typing), (shown, showing) = os.pipe(), os.pipe()
    os.write(typing, b"it\n")
    io = ProcessIO(stdin=DescriptorReader(typed), stdout=DescriptorWriter(showing), sizes=queued())
    attached = asyncio.ensure_future(bundles.runtime.attach(ContainerId(name), io))
    await asyncio.sleep(0)
    await bundles.runtime.start(name)
    assert 3 == (await bundles.runtime.wait(name)).code
    await attached
    output = os.read(shown, 4096)
    assert (True, True) == (b"25 80" in output, b"got it" in output)
    for end in (typing, shown):
        os.close(end)


async def test_without_a_terminal_there_is_nothing_to_attach_to(bundles: Bundles) -> None:
    """Its streams are the caller's own pipes."""
    name = await bundles.created("piped", "sleep", "600")
    with pytest.raises(Unavailable):
        await bundles.runtime.attach(ContainerId(name), ProcessIO())


async def test_a_pipe_that_is_not_there(bundles: Bundles) -> None:
    """Nothing is created, and no descriptor stays open."""
    stdin = bundles.folder / "in"
    os.mkfifo(stdin)
    with pytest.raises(InvalidArgument, match="stdout"):
        await bundles.created("lost", "true", stdio=Stdio(stdin=str(stdin), stdout=f"{stdin}.none", monitored_by_parent=True))
    with pytest.raises(NotFound):
        await bundles.runtime.state("lost")
    with pytest.raises(OSError, match="No such device"):  # its other end is closed
        os.open(stdin, os.O_WRONLY | os.O_NONBLOCK)


async def test_a_program_that_is_not_there(bundles: Bundles) -> None:
    """The error is the runtime's message, whatever the streams are."""
    with pytest.raises(CrishimError, match="no-such-program"):
        await bundles.created("none", "/no-such-program")


async def test_many_at_once(bundles: Bundles) -> None:
    """Each of many that end together has its own exit."""

    async def life(number: int) -> int:
        name = await bundles.created(f"n{number}", "sh", "-c", f"exit {number}")
        await bundles.runtime.start(name)
        end = await bundles.runtime.wait(name)
        await bundles.runtime.delete(name)
        return end.code

    assert list(range(20)) == await asyncio.gather(*(life(number) for number in range(20)))
