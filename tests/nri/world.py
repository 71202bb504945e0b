"""A node of fakes with NRI, and plugins that note what they are called for."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from crishim._proto import nri_pb2 as pb
from crishim.nri.adaptation import NodeResourceInterface, NriSettings
from crishim.nri.connection import TimeLimits
from crishim.nri.plugin import NriPlugin
from crishim.testing import Harness
from crishim.testing.conformance.candidate import until

LIMITS = TimeLimits(registration=5.0, request=5.0)


@attrs.define
class NriNode:
    """A node of fakes whose plugins connect at `socket`."""

    world: Harness
    nri: NodeResourceInterface
    socket: Path

    @contextlib.asynccontextmanager
    async def plugin(self, plugin: NriPlugin) -> AsyncIterator[asyncio.Task[None]]:
        """A plugin from the end of its synchronization to the end of the block, or until the runtime drops it."""
        before = len(self.nri._plugins)
        running = asyncio.create_task(plugin.run(self.socket))
        await until(lambda: running.done() or self.synchronized > before or len(self.nri._plugins) > before)
        await until(lambda: running.done() or all(item.synchronized.done() for item in self.nri._plugins))
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await until(lambda: len(self.nri._plugins) <= before)

    @property
    def synchronized(self) -> int:
        """How many plugins take part."""
        return sum(plugin.synchronized.done() for plugin in self.nri._plugins)


@contextlib.asynccontextmanager
async def nri_node(folder: Path, limits: TimeLimits = LIMITS, **parts: Any) -> AsyncIterator[NriNode]:
    """A node of fakes. Plugins of the folder `plugins` are started."""
    path = folder / "nri.sock"
    settings = NriSettings(socket=path, plugins=folder / "plugins", configurations=folder / "conf.d", limits=limits)
    nri = NodeResourceInterface(settings, "1.2.3")
    async with Harness(plugins=nri, **parts) as world, nri.serving(world.services.plugin_host):
        yield NriNode(world, nri, path)


Reply = Callable[..., Awaitable[Any]]


class Noting(NriPlugin):
    """A plugin that notes every event; `replies` answer some of them."""

    name: ClassVar[str] = "noting"
    _numbers = itertools.count()

    def __init__(self, called: str = "50-noting", /, **replies: Reply) -> None:
        super().__init__()
        self.index, self.name = called.split("-", 1)  # type: ignore[misc]
        self.replies = replies
        self.events: list[tuple[str, str]] = []
        self.synced: list[str] = []
        self.containers: dict[str, pb.Container] = {}
        self.order: list[int] = []

    async def synchronize(self, pods: Sequence[pb.PodSandbox], containers: Sequence[pb.Container]) -> Any:
        self.synced = [pod.id for pod in pods] + [container.id for container in containers]
        return await self._reply("synchronize", pods, containers)

    async def _reply(self, event: str, *values: Any) -> Any:
        return await self.replies[event](*values) if event in self.replies else None

    async def _pod(self, event: str, pod: pb.PodSandbox, *rest: Any) -> Any:
        self.events.append((event, pod.id))
        return await self._reply(event, pod, *rest)

    async def _container(self, event: str, pod: pb.PodSandbox, container: pb.Container, *rest: Any) -> Any:
        self.events.append((event, container.id))
        self.containers[event] = container
        self.order.append(next(self._numbers))
        return await self._reply(event, pod, container, *rest)

    async def run_pod_sandbox(self, pod: pb.PodSandbox) -> None:
        await self._pod("run_pod_sandbox", pod)

    async def stop_pod_sandbox(self, pod: pb.PodSandbox) -> None:
        await self._pod("stop_pod_sandbox", pod)

    async def remove_pod_sandbox(self, pod: pb.PodSandbox) -> None:
        await self._pod("remove_pod_sandbox", pod)

    async def update_pod_sandbox(self, pod: pb.PodSandbox, overhead: pb.LinuxResources, resources: pb.LinuxResources) -> None:
        await self._pod("update_pod_sandbox", pod, overhead, resources)

    async def post_update_pod_sandbox(self, pod: pb.PodSandbox) -> None:
        await self._pod("post_update_pod_sandbox", pod)

    async def create_container(self, pod: pb.PodSandbox, container: pb.Container) -> Any:
        return await self._container("create_container", pod, container)

    async def post_create_container(self, pod: pb.PodSandbox, container: pb.Container) -> None:
        await self._container("post_create_container", pod, container)

    async def start_container(self, pod: pb.PodSandbox, container: pb.Container) -> None:
        await self._container("start_container", pod, container)

    async def post_start_container(self, pod: pb.PodSandbox, container: pb.Container) -> None:
        await self._container("post_start_container", pod, container)

    async def update_container(self, pod: pb.PodSandbox, container: pb.Container, limits: pb.LinuxResources) -> Any:
        return await self._container("update_container", pod, container, limits)

    async def post_update_container(self, pod: pb.PodSandbox, container: pb.Container) -> None:
        await self._container("post_update_container", pod, container)

    async def stop_container(self, pod: pb.PodSandbox, container: pb.Container) -> Any:
        return await self._container("stop_container", pod, container)

    async def remove_container(self, pod: pb.PodSandbox, container: pb.Container) -> None:
        await self._container("remove_container", pod, container)


def replying(value: Any) -> Reply:
    """A reply that is always the same."""

    async def reply(*_: Any) -> Any:
        return value

    return reply


def refusing(text: str = "no") -> Reply:
    """A reply that is an error."""

    async def reply(*_: Any) -> Any:
        raise RuntimeError(text)

    return reply


async def hang(*_: Any) -> Any:
    """A reply that never comes."""
    await asyncio.Event().wait()


def update(container_id: str, *, memory: int = 0, shares: int = 0, ignore: bool = False) -> pb.ContainerUpdate:
    """An update of limits."""
    made = pb.ContainerUpdate(container_id=container_id, ignore_failure=ignore)
    if memory:
        made.linux.resources.memory.limit.value = memory
    if shares:
        made.linux.resources.cpu.shares.value = shares
    return made
