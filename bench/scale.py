"""What a call costs when a node has ten pods, and when it has hundreds: CPU milliseconds of the server's process.

Prints one table for real pods (runc, a busybox, the host's network), and one for the fake backend. The last column is the most
crowded node's figure over the first one's. Nothing is asserted. Needs root, runc, conmon and busybox.

The pods are in memory: ext4 takes up to a millisecond to create a file where many were deleted within the last half minute,
which would measure how many pods were removed before, and not how many there are.

    python -m bench.scale [--pods 10,100,250] [--fake 10,500,2000]
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from crishim.cri import Dispatcher, pb
from crishim.model.container import ContainerFilter
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.testing import Harness
from tests.backends.runc.world import node

TURNS = 40
HOST = LinuxPodSandboxConfig(
    security_context=LinuxSandboxSecurityContext(
        namespace_options=NamespaceOption(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
    )
)

Call = Callable[[], Awaitable[object]]
Table = dict[str, list[float]]


@contextlib.asynccontextmanager
async def runc() -> AsyncIterator[Harness]:
    """Services over runc."""
    with tempfile.TemporaryDirectory(prefix="scale", dir="/dev/shm") as folder:
        async with node(Path(folder)) as world:
            yield world


@contextlib.asynccontextmanager
async def fake() -> AsyncIterator[Harness]:
    """Services over the fake backend."""
    async with Harness() as world:
        yield world


async def grow(world: Harness, pods: int) -> None:
    """Have so many pods of one container each."""
    there = len(await world.services.containers.list(ContainerFilter()))
    for number in range(there, pods):
        await world.run_container(await world.run_sandbox(f"pod{number}", linux=HOST), "main", "sleep", "600")


async def cost(call: Call) -> float:
    """CPU milliseconds of this process for one call, the median of some."""
    spent = []
    for _ in range(TURNS):
        begun = time.process_time()
        await call()
        spent.append((time.process_time() - begun) * 1000)
    return statistics.median(spent)


async def calls(world: Harness, *, execs: bool) -> dict[str, Call]:
    """Calls that name one object, of the pod in the middle, and a whole pod's life."""
    dispatch = Dispatcher(world.services)
    entries = await world.services.containers.list(ContainerFilter())
    container = entries[len(entries) // 2].item
    pod = container.pod_sandbox_id

    async def life() -> None:
        other = await world.run_sandbox("other", linux=HOST)
        await world.run_container(other, "main", "sleep", "600")
        await world.services.sandboxes.stop(other)
        await world.services.sandboxes.remove(other)

    async def command() -> None:
        await dispatch(pb.ExecSyncRequest(container_id=container.id, cmd=["true"], timeout=10))

    async def container_status() -> None:
        await dispatch(pb.ContainerStatusRequest(container_id=container.id))

    async def pod_status() -> None:
        await dispatch(pb.PodSandboxStatusRequest(pod_sandbox_id=pod))

    async def container_stats() -> None:
        await dispatch(pb.ContainerStatsRequest(container_id=container.id))

    async def pod_stats() -> None:
        await dispatch(pb.PodSandboxStatsRequest(pod_sandbox_id=pod))

    found: dict[str, Call] = {
        "ContainerStatus": container_status,
        "PodSandboxStatus": pod_status,
        "ContainerStats": container_stats,
        "PodSandboxStats": pod_stats,
        "a pod's whole life": life,
    }
    return {"ExecSync": command, **found} if execs else found


async def measure(make: Callable[[], AbstractAsyncContextManager[Harness]], sizes: list[int], *, execs: bool) -> Table:
    """The cost of each call at each size."""
    table: Table = {}
    async with make() as world:
        for size in sizes:
            await grow(world, size)
            for name, call in (await calls(world, execs=execs)).items():
                table.setdefault(name, []).append(await cost(call))
    return table


def show(title: str, sizes: list[int], table: Table) -> None:
    """Print a table."""
    print(f"{title:22}" + "".join(f"{size:>10}" for size in sizes) + f"{'ratio':>10}")
    for name, row in table.items():
        print(f"{name:22}" + "".join(f"{value:10.2f}" for value in row) + f"{row[-1] / row[0]:10.2f}")


def numbers(text: str) -> list[int]:
    """Numbers with commas between them."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=numbers, default=[10, 100, 250])
    parser.add_argument("--fake", type=numbers, default=[10, 500, 2000])
    options = parser.parse_args()
    show("pods (runc)", options.pods, asyncio.run(measure(runc, options.pods, execs=True)))
    show("pods (fake)", options.fake, asyncio.run(measure(fake, options.fake, execs=False)))


if __name__ == "__main__":
    main()
