"""A `Services` over fakes:

async with Harness() as world:
    sandbox_id = await world.run_sandbox("pod")
    container_id = await world.run_container(sandbox_id, "main", "sleep")
"""

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from crishim.model.container import ContainerConfig, ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata
from crishim.model.values import ContainerId, SandboxId
from crishim.service.backends import Settings
from crishim.service.services import Services
from crishim.testing.doubles import FakeClock, FakeIds, FakeUrls
from crishim.testing.fakes import FakeBackend, FakeImages, FakeNamespaces, FakeNetwork

__all__ = ["IMAGE", "Harness", "container_config", "sandbox_config"]

IMAGE = "registry.example/image:1"
"""The image that `Harness` has in place."""


def sandbox_config(name: str = "pod", **changes: Any) -> PodSandboxConfig:
    """A small sandbox configuration with this name."""
    metadata = PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}")
    return PodSandboxConfig(**{"metadata": metadata, "hostname": name, **changes})


def container_config(name: str = "main", *argv: str, **changes: Any) -> ContainerConfig:
    """A small container configuration with this name, running `argv` (the image's own command without)."""
    values: dict[str, Any] = {"metadata": ContainerMetadata(name), "image": ImageSpec(image=IMAGE), "command": argv}
    return ContainerConfig(**{**values, **changes})


class Harness:
    """A `Services` over fakes, with an image in place. Arguments replace the fakes; `services` is built on entry.

    Leaving and entering again is a restart over the same state; its recovery is complete on entry.
    """

    def __init__(self, backend: Any = None, **parts: Any) -> None:
        self.clock = FakeClock()
        self.ids = FakeIds()
        self.urls = FakeUrls()
        self.images = FakeImages()
        self.network = FakeNetwork()
        self.namespaces = FakeNamespaces()
        self.fake = FakeBackend(logs_to_disk=False)
        self.backend = backend if backend is not None else self.fake
        self.settings = Settings(runtime_version="1.2.3", boot_id="boot-1", remove_unrecorded_after=0.0)
        self._parts = parts
        self._stack = AsyncExitStack()
        self.services: Services
        self.images.add(IMAGE)

    def make(self, **changes: Any) -> Services:
        """A new `Services` over the same state, not yet entered."""
        parts: dict[str, Any] = {
            "backends": {"": self.backend},
            "images": self.images,
            "network": self.network,
            "namespaces": self.namespaces,
            "urls": self.urls,
            "clock": self.clock,
            "ids": self.ids,
            "settings": self.settings,
        }
        return Services(**{**parts, **self._parts, **changes})

    async def __aenter__(self) -> Self:
        self.services = await self._stack.enter_async_context(self.make())
        await self.services.recovered()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    async def run_sandbox(self, name: str = "pod", **changes: Any) -> SandboxId:
        """Run a sandbox."""
        return await self.services.sandboxes.run(sandbox_config(name, **changes), "")

    async def create_container(self, sandbox_id: SandboxId, name: str = "main", *argv: str, **changes: Any) -> ContainerId:
        """Create a container."""
        return await self.services.containers.create(sandbox_id, container_config(name, *argv, **changes), None)

    async def run_container(self, sandbox_id: SandboxId, name: str = "main", *argv: str, **changes: Any) -> ContainerId:
        """Create and start a container."""
        container_id = await self.create_container(sandbox_id, name, *argv, **changes)
        await self.services.containers.start(container_id)
        return container_id
