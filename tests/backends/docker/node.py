"""A whole service on a real engine, which can be left and entered again as a restart of ours."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from crishim.backends.docker import DockerBackend, DockerImages
from crishim.backends.docker.engine import Engine
from crishim.backends.docker.options import read_options
from crishim.config import Deadlines
from crishim.model.container import ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState, LinuxContainerConfig
from crishim.model.image import ImageSpec
from crishim.model.runtime import ContainerEvent, ContainerEventType
from crishim.model.sandbox import (
    LinuxPodSandboxConfig,
    PodSandboxConfig,
    PodSandboxFilter,
    PodSandboxMetadata,
    PodSandboxState,
)
from crishim.model.security import LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import ContainerId, SandboxId
from crishim.service.backends import Settings
from crishim.service.services import Services
from crishim.store.memory import MemoryStore
from tests.backends.docker.world import IMAGE, context

TIMEOUT = 60.0

SLEEPS = ("sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.05; done")
OPTIONS = NamespaceOption(pid=NamespaceMode.CONTAINER)


def counts(number: int) -> tuple[str, ...]:
    """Print the numbers from 1, a hundred a second, and end with 7."""
    return ("sh", "-c", f"i=0; while [ $i -lt {number} ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 7")


class Node:
    """Services over one engine; records and folders stay while it is left and entered again.

    What is awaited here is polled: a test looks from outside, as the kubelet does.
    """

    def __init__(self, folder: Path, socket: str, **options: Any) -> None:
        self.folder = folder
        self.socket = socket
        self._context = context(folder, socket, **options)
        self._store = MemoryStore()
        self.services: Services
        self.backend: DockerBackend
        self.engine = Engine(socket)
        self.events: list[ContainerEvent] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        """One life of ours."""
        options = read_options(self._context.options)
        self.backend = DockerBackend(self._context, options)
        images = DockerImages(self.engine, self._context.clock, options)
        settings = Settings(
            runtime_version="1.2.3",
            boot_id="boot",
            retry_most=0.5,
            remove_unrecorded_after=0.0,
            deadlines=Deadlines(create_container=30, start_container=30),
        )
        self.services = Services(backends={"": self.backend}, images=images, store=self._store, settings=settings)
        async with self.services:
            listener = asyncio.create_task(self._listen())
            await self.services.recovered()
            try:
                yield self
            finally:
                listener.cancel()
                await asyncio.wait({listener})
                await self.backend.disconnect()
                self.engine.close()

    async def sandbox(self, name: str = "pod") -> SandboxId:
        """Run a sandbox."""
        config = PodSandboxConfig(
            metadata=PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}"),
            hostname=name,
            log_directory=str(self.folder / "logs"),
            linux=LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=OPTIONS)),
        )
        return await self.services.sandboxes.run(config, "")

    def config(self, name: str, argv: tuple[str, ...], **changes: Any) -> ContainerConfig:
        """A small container that logs to `NAME.log`."""
        values: dict[str, Any] = {
            "metadata": ContainerMetadata(name),
            "image": ImageSpec(image=IMAGE),
            "command": argv,
            "log_path": f"{name}.log",
            "linux": LinuxContainerConfig(security_context=LinuxContainerSecurityContext(namespace_options=OPTIONS)),
        }
        return ContainerConfig(**{**values, **changes})

    async def container(self, sandbox_id: SandboxId, name: str, argv: tuple[str, ...], **changes: Any) -> ContainerId:
        """Create and start a container."""
        container_id = await self.services.containers.create(sandbox_id, self.config(name, argv, **changes), None)
        await self.services.containers.start(container_id)
        return container_id

    async def seen(self, container_id: ContainerId) -> tuple[ContainerState, int, str]:
        """State, exit code and reason."""
        status = (await self.services.containers.status(container_id, verbose=False)).status
        return status.state, status.exit_code, status.reason

    async def ready(self, sandbox_id: SandboxId) -> PodSandboxState:
        """A sandbox's state."""
        return (await self.services.sandboxes.status(sandbox_id, verbose=False)).status.state

    async def runtime_ready(self) -> tuple[bool, str]:
        """The RuntimeReady condition."""
        condition = (await self.services.runtime.status(verbose=False)).conditions[0]
        return condition.status, condition.message

    async def until_exited(self, container_id: ContainerId) -> tuple[ContainerState, int, str]:
        """Wait until a container is shown EXITED."""
        async with asyncio.timeout(TIMEOUT):
            while (seen := await self.seen(container_id))[0] is not ContainerState.EXITED:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return seen

    async def until_not_ready(self, sandbox_id: SandboxId) -> None:
        """Wait until a sandbox is shown NOTREADY."""
        async with asyncio.timeout(TIMEOUT):
            while await self.ready(sandbox_id) is not PodSandboxState.NOTREADY:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def until_back(self) -> None:
        """Wait until the engine counts as reachable."""
        async with asyncio.timeout(TIMEOUT):
            while not (await self.runtime_ready())[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def until_lost(self) -> None:
        """Wait until the engine counts as lost."""
        async with asyncio.timeout(TIMEOUT):
            while (await self.runtime_ready())[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def log(self, name: str) -> list[str]:
        """What a container has said, line by line; unfinished lines joined with what follows."""
        path = self.folder / "logs" / f"{name}.log"
        lines = [line.split(b" ", 3) for line in path.read_bytes().splitlines()] if path.exists() else []
        text = "".join(parts[3].decode(errors="replace") + ("\n" if parts[2] == b"F" else "") for parts in lines)
        return text.splitlines()

    async def until_logged(self, name: str, lines: int) -> None:
        """Wait until a container has said so many lines."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.log(name)) < lines:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def kinds(self, subject: str) -> list[ContainerEventType]:
        """The events of one container or sandbox so far."""
        return [event.type for event in self.events if event.container_id == subject]

    async def clear(self) -> None:
        """Remove everything through the service; then the engine must hold nothing of ours."""
        for sandbox in await self.services.sandboxes.list(PodSandboxFilter()):
            await self.services.sandboxes.remove(sandbox.item.id)
        assert [] == list(await self.services.containers.list(ContainerFilter()))
        left = await self.backend.inventory()
        assert () == (*left.sandboxes, *left.containers)

    async def _listen(self) -> None:
        async for event in self.services.events.subscribe():
            self.events.append(event)
