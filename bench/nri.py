"""What plugins of the node cost: a container over the fake backend without NRI, with no plugin, and with one that adjusts
nothing, in turns.

Prints milliseconds (median) for create, start, stop and removal of one container. The plugin is a process of its own, of
`crishim.nri.plugin`.

    python -m bench.nri [--containers 200]
"""

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from crishim.nri.adaptation import NodeResourceInterface, NriSettings
from crishim.nri.plugin import NriPlugin
from crishim.testing import Harness


class Idle(NriPlugin):
    """Sees every container and adjusts none."""

    async def create_container(self, *_: Any) -> None:
        """Nothing."""

    async def start_container(self, *_: Any) -> None:
        """Nothing."""

    async def stop_container(self, *_: Any) -> None:
        """Nothing."""

    async def remove_container(self, *_: Any) -> None:
        """Nothing."""


@contextlib.asynccontextmanager
async def node(folder: Path, kind: str) -> AsyncIterator[Harness]:
    """A node without NRI, with it, or with it and a plugin."""
    if kind == "without":
        async with Harness() as world:
            yield world
        return
    nri = NodeResourceInterface(NriSettings(socket=folder / "nri.sock", plugins=folder / "none"), "1")
    async with Harness(plugins=nri) as world, nri.serving(world.services.plugin_host):
        if kind == "no plugin":
            yield world
            return
        plugin = subprocess.Popen((sys.executable, "-m", "bench.nri", "--plugin", str(folder / "nri.sock")))
        try:
            while not nri.active:
                await asyncio.sleep(0.01)
            yield world
        finally:
            plugin.kill()
            plugin.wait()


async def life(world: Harness, pod: Any, name: str) -> float:
    """The seconds of one container's life."""
    began = time.perf_counter()
    container = await world.run_container(pod, name, "sleep")
    await world.services.containers.stop(container, 0)
    await world.services.containers.remove(container)
    return time.perf_counter() - began


async def measure(count: int) -> None:
    """Measure, and print."""
    kinds = ("without", "no plugin", "one plugin")
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as made:
        async with contextlib.AsyncExitStack() as stack:
            worlds = {}
            for kind in kinds:
                folder = Path(made, kind.replace(" ", "-"))
                folder.mkdir()
                world = await stack.enter_async_context(node(folder, kind))
                worlds[kind] = world, await world.run_sandbox()
            for number in range(count):
                for kind, (world, pod) in worlds.items():
                    took[kind].append(await life(world, pod, f"c{number}"))
    plain = statistics.median(took["without"])
    for kind in kinds:
        middle = statistics.median(took[kind])
        print(f"{kind:12} {middle * 1000:7.3f} ms  {(middle - plain) * 1000:+7.3f}")


def main() -> None:
    """Measure, or be the plugin."""
    parser = argparse.ArgumentParser(description="Measure the cost of NRI.")
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--plugin", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    asyncio.run(Idle().run(arguments.plugin) if arguments.plugin else measure(arguments.containers))


if __name__ == "__main__":
    main()
