"""Exits of execs on a busy node."""

import asyncio
import sys
from pathlib import Path

import pytest

from crishim.interfaces.capabilities import ProcessIO
from crishim.linux.children import children
from crishim.model.process import ExecSpec
from crishim.testing.conformance.offers import Sink
from tests.backends.runc.world import needs, node, without_hybrid
from tests.linux.test_children import LEAVES_ORPHANS

pytestmark = [pytest.mark.node, needs("runc", "crun", "conmon", "busybox")]


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_every_exec_has_its_own_exit(tmp_path: Path, runtime: str) -> None:
    """Of sixty execs, ten at a time, with pipes and terminals and orphans of others beside them, each has its own exit code."""
    without_hybrid()
    async with node(tmp_path, runtime=runtime) as world:
        container = await world.run_container(await world.run_sandbox(), "busy", "sleep", "600")
        room = asyncio.Semaphore(10)

        async def code_of(number: int) -> int:
            spec = ExecSpec(argv=("sh", "-c", f"exit {number}"), tty=number % 2 == 1)
            async with room:
                if number % 3 == 0:
                    await children.start(sys.executable, "-c", LEAVES_ORPHANS, "3", "0")
                return (await world.backend.exec(container, spec, ProcessIO(stdout=Sink()))).code

        assert list(range(1, 61)) == await asyncio.gather(*map(code_of, range(1, 61)))
