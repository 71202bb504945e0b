"""What the docker backend costs beside the bare Engine API, on an engine of its own.

    python -m bench.docker [pods]          # root; docker.io, busybox-static, catatonit

Prints medians, in milliseconds: a pod on the host network by the bare calls that it takes (two creates, two starts, one
inspect) and through the whole service, exec and stop; then lists and usage with so many pods (100). Both ways of starting a
pod take turns, since the machine's own mood changes within a minute.
"""

import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from crishim.backends.docker.convert import Found, container_body, sandbox_body
from crishim.backends.docker.image_files import IMAGE
from crishim.cri import Dispatcher, pb
from crishim.lifecycle.resolve import resolve
from crishim.model.container import ContainerConfig
from crishim.model.image import ImageConfig
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import ContainerId, ImageId, SandboxId
from tests.backends.docker.node import SLEEPS, Node
from tests.backends.docker.world import dockerd

ROUNDS = 20
OPTIONS = NamespaceOption(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)


def sandbox_config(name: str, logs: Path) -> PodSandboxConfig:
    """A pod on the host network."""
    linux = LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=OPTIONS))
    return PodSandboxConfig(metadata=PodSandboxMetadata(name, "bench", name), log_directory=str(logs), linux=linux)


async def bare(node: Node, config: PodSandboxConfig, container: ContainerConfig, number: int) -> None:
    """The calls alone, with the very bodies that the backend sends."""
    engine, maker = node.engine, await node.backend._maker()  # noqa: SLF001 - the same bodies
    pod, inner = f"{number:064x}", f"{number + (1 << 32):064x}"
    spec = SandboxSpec(id=SandboxId(pod), config=config)
    resolved = resolve(container, ImageConfig(), spec, container_id=ContainerId(inner), image_id=ImageId("exam"))
    await engine.post("/containers/create", body=sandbox_body(spec, IMAGE, maker), name=pod)
    await engine.post(f"/containers/{pod}/start")
    await engine.inspect(pod)
    await engine.post("/containers/create", body=container_body(resolved, maker, Found()), name=inner)
    await engine.post(f"/containers/{inner}/start")


async def timed(work: Awaitable[object]) -> float:
    """Milliseconds that something takes."""
    begun = time.perf_counter()
    await work
    return (time.perf_counter() - begun) * 1000


async def median(rounds: int, work: Callable[[], Awaitable[object]]) -> float:
    """The median of several rounds."""
    return statistics.median([await timed(work()) for _ in range(rounds)])


async def starts(node: Node, logs: Path) -> None:
    """A pod's start, both ways, and what follows it."""
    times: dict[str, list[float]] = {"bare": [], "service": [], "exec": [], "stop": []}
    for number in range(ROUNDS):
        config = sandbox_config(f"pod-{number}", logs)
        container = node.config(f"c{number}", SLEEPS)
        times["bare"].append(await timed(bare(node, config, container, number)))
        for name in (f"{number + (1 << 32):064x}", f"{number:064x}"):
            await node.engine.delete(f"/containers/{name}", force=1, v=1)
        begun = time.perf_counter()
        sandbox = await node.services.sandboxes.run(config, "")
        inner = await node.container(sandbox, f"c{number}", SLEEPS)
        times["service"].append((time.perf_counter() - begun) * 1000)
        times["exec"].append(await timed(node.services.streams.exec_sync(inner, ("true",), 10)))
        times["stop"].append(await timed(node.services.sandboxes.stop(sandbox)))
        await node.services.sandboxes.remove(sandbox)
    for name, values in times.items():
        print(f"{name:8} {statistics.median(values):8.1f} ms   least {min(values):8.1f} ms")
    ratio = statistics.median(times["service"]) / statistics.median(times["bare"])
    print(f"pod start, service to bare calls: {ratio:.3f}; by the least {min(times['service']) / min(times['bare']):.3f}")


async def lists(node: Node, logs: Path, pods: int) -> None:
    """Lists and usage with many pods."""
    for number in range(pods):
        sandbox = await node.services.sandboxes.run(sandbox_config(f"many-{number}", logs), "")
        await node.container(sandbox, f"m{number}", ("sh", "-c", "while :; do sleep 600; done"))
    call = Dispatcher(node.services).call
    empty = pb.ListContainersRequest().SerializeToString()
    print(f"{'ListContainers':22} {await median(50, lambda: call('ListContainers', empty)):8.3f} ms")
    print(f"{'ListPodSandbox':22} {await median(50, lambda: call('ListPodSandbox', empty)):8.3f} ms")
    await call("ListContainerStats", empty)
    print(f"{'ListContainerStats':22} {await median(10, lambda: call('ListContainerStats', empty)):8.1f} ms")
    print(f"resident, at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


async def measure(socket: str, pods: int) -> None:
    """Everything, on one engine."""
    with tempfile.TemporaryDirectory() as folder:
        async with Node(Path(folder), socket).running() as node:
            await node.services.sandboxes.remove(await node.services.sandboxes.run(sandbox_config("warm", Path(folder)), ""))
            await starts(node, Path(folder) / "logs")
            await lists(node, Path(folder) / "logs", pods)
            await node.clear()


def main() -> None:
    """Measure."""
    pods = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with dockerd() as engine:
        asyncio.run(measure(engine.socket, pods))


if __name__ == "__main__":
    main()
