"""The backend under test, and the environment of one check."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs

from crishim.errors import CrishimError, NotFound
from crishim.interfaces.backend import Backend, BackendContext, BackendInfo, NetnsSource
from crishim.interfaces.capabilities import capabilities
from crishim.lifecycle.resolve import DEFAULT_PATH
from crishim.model.container import ContainerMetadata, ContainerSpec, ContainerState, ObservedContainer
from crishim.model.image import ImageSpec
from crishim.model.process import Exit
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import ContainerId, FrozenDict, ImageId, SandboxId

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds after which the suite fails a verb that has no deadline in the contract."""


class Programs:
    """The commands that the suite runs. These need a shell with the usual tools; override them for images without one.

    `ready` is what `sleeps` and `stubborn` write to stdout once they handle signals; empty if they handle them from the start.
    """

    ready = "ready"

    def prints(self, text: str) -> tuple[str, ...]:
        """Write one line to stdout and exit with 0."""
        return ("sh", "-c", f"echo {text}")

    def complains(self, text: str) -> tuple[str, ...]:
        """Write one line to stderr and exit."""
        return ("sh", "-c", f"echo {text} >&2")

    def fails(self, code: int) -> tuple[str, ...]:
        """Exit with this code."""
        return ("sh", "-c", f"exit {code}")

    def sleeps(self) -> tuple[str, ...]:
        """Print `ready`, then run until a signal, which has its usual effect even for the first process of a pid namespace."""
        return ("sh", "-c", f"trap 'exit 143' TERM; echo {self.ready}; while :; do sleep 0.05; done")

    def stubborn(self) -> tuple[str, ...]:
        """Print `ready`, then run and ignore SIGTERM."""
        return ("sh", "-c", f"trap '' TERM; echo {self.ready}; while :; do sleep 0.05; done")

    def copies(self) -> tuple[str, ...]:
        """Copy stdin to stdout until its end."""
        return ("cat",)

    def missing(self) -> tuple[str, ...]:
        """A program that does not exist."""
        return ("/no/such/program",)

    def prints_variable(self, variable: str) -> tuple[str, ...] | None:
        """Print the value of an environment variable; None if that is not possible."""
        return ("sh", "-c", f'echo "${variable}"')

    def ticks(self, text: str) -> tuple[str, ...] | None:
        """Print a line repeatedly, several times a second; None if that is not possible."""
        return ("sh", "-c", f"trap 'exit 143' TERM; while :; do echo {text}; sleep 0.05; done")


@attrs.define(kw_only=True)
class Candidate:
    """A backend under test: how to build it, its programs, and its known weaknesses.

    `make` is called with the same context again to test a restart. `survives_restart`: containers keep running across a
    restart. `restores_exit`: the exit status of a container that exited meanwhile is known afterwards.
    """

    make: Callable[[BackendContext], Awaitable[Backend]]
    context: BackendContext
    scratch: Path
    programs: Programs = attrs.Factory(Programs)
    image: ImageSpec = ImageSpec(image="exam")
    image_id: ImageId = ImageId("exam")
    host_network: bool = False
    survives_restart: bool = True
    restores_exit: bool = True
    close: Callable[[Backend], Awaitable[None]] | None = None

    @contextlib.asynccontextmanager
    async def world(self) -> "AsyncIterator[World]":
        """An empty backend, which must be empty again at the end."""
        world = World(self, await self.make(self.context))
        try:
            await world.begin()
            yield world
            await world.tidy()
            left = await world.backend.inventory()
            assert not [seen for seen in left.sandboxes if seen.ours], f"left behind: {left}"
            assert not [seen for seen in left.containers if seen.ours], f"left behind: {left}"
        except BaseException:
            with contextlib.suppress(CrishimError, AssertionError):
                await world.tidy()
            raise
        finally:
            await world.close()


class World:
    """One backend during one check. It calls the verbs in the library's order, and removes what a check leaves."""

    def __init__(self, candidate: Candidate, backend: Backend) -> None:
        self.candidate = candidate
        self.backend = backend
        self.programs = candidate.programs
        self.info: BackendInfo
        self._numbers = itertools.count(1)
        self._sandboxes: list[SandboxId] = []
        self._containers: list[ContainerId] = []

    async def begin(self) -> None:
        """Probe the backend."""
        self.info = await patiently(self.backend.probe())

    def claims(self, capability: type) -> bool:
        """Whether the backend claims a capability."""
        return capability in capabilities(self.backend)

    async def restart(self) -> None:
        """Drop the backend as a crash would, and build it again over the same folders."""
        await self.close()
        self.backend = await self.candidate.make(self.candidate.context)
        await self.begin()

    async def close(self) -> None:
        """Close the backend."""
        if self.candidate.close is not None:
            await self.candidate.close(self.backend)

    def sandbox_spec(self, **changes: Any) -> SandboxSpec:
        """A plain sandbox."""
        number = next(self._numbers)
        network = NamespaceMode.NODE if self.candidate.host_network else NamespaceMode.POD
        options = NamespaceOption(network=network, pid=NamespaceMode.CONTAINER)
        config = PodSandboxConfig(
            metadata=PodSandboxMetadata(name=f"exam-{number}", namespace="exam", uid=f"uid-{number}"),
            hostname="" if self.candidate.host_network else f"exam-{number}",
            log_directory=str(self.candidate.scratch / "logs"),
            linux=LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=options)),
        )
        values: dict[str, Any] = {"id": SandboxId(f"{number:x}5".rjust(64, "e")), "config": config}
        return SandboxSpec(**{**values, **changes})

    def container_spec(self, sandbox: SandboxSpec, argv: tuple[str, ...], **changes: Any) -> ContainerSpec:
        """A plain container that logs below the scratch folder."""
        number = next(self._numbers)
        values: dict[str, Any] = {
            "id": ContainerId(f"{number:x}c".rjust(64, "e")),
            "sandbox": sandbox,
            "metadata": ContainerMetadata(f"c{number}"),
            "image": self.candidate.image,
            "image_id": self.candidate.image_id,
            "argv": argv,
            "env": FrozenDict({"PATH": DEFAULT_PATH}),
            "log_path": str(self.candidate.scratch / "logs" / f"c{number}" / "0.log"),
        }
        return ContainerSpec(**{**values, **changes})

    async def sandbox(self, **changes: Any) -> SandboxSpec:
        """Start a sandbox."""
        spec = self.sandbox_spec(**changes)
        self._sandboxes.append(spec.id)
        namespaces = self.candidate.context.namespaces
        if namespaces is not None and self.info.netns is NetnsSource.LIBRARY:
            spec = attrs.evolve(spec, netns=await namespaces.create(spec))
        started = await patiently(self.backend.start_sandbox(spec))
        return attrs.evolve(spec, netns=started.netns or spec.netns, ips=started.ips or spec.ips)

    async def create(self, sandbox: SandboxSpec, argv: tuple[str, ...], **changes: Any) -> ContainerSpec:
        """Create a container."""
        spec = self.container_spec(sandbox, argv, **changes)
        self._containers.append(spec.id)
        await patiently(self.backend.create_container(spec))
        return spec

    async def run(self, sandbox: SandboxSpec, argv: tuple[str, ...], **changes: Any) -> ContainerSpec:
        """Create and start a container."""
        spec = await self.create(sandbox, argv, **changes)
        await patiently(self.backend.start_container(spec.id))
        return spec

    async def run_ready(self, sandbox: SandboxSpec, argv: tuple[str, ...], **changes: Any) -> ContainerSpec:
        """As `run`, for `sleeps` and `stubborn`: return when the program handles signals."""
        spec = await self.run(sandbox, argv, **changes)
        await self.ready(Path(spec.log_path))
        return spec

    async def ready(self, log: Path) -> None:
        """Return when a program that writes to this log has printed that it is ready."""
        said = self.programs.ready.encode()
        await until(lambda: not said or (log.exists() and said in log.read_bytes()))

    async def wait(self, container_id: ContainerId) -> Exit:
        """Wait for a container's exit."""
        return await patiently(self.backend.wait_container(container_id))

    async def seen(self, container_id: ContainerId) -> ObservedContainer | None:
        """The container as the inventory shows it."""
        inventory = await patiently(self.backend.inventory())
        return next((observed for observed in inventory.containers if observed.id == container_id), None)

    async def tidy(self) -> None:
        """Remove everything in the library's order."""
        for container_id in self._containers:
            seen = await self.seen(container_id)
            with contextlib.suppress(NotFound):
                if seen is not None and seen.state is not ContainerState.CREATED and seen.exit is None:
                    with contextlib.suppress(NotFound):
                        await patiently(self.backend.kill_container(container_id, 9))
                    await self.wait(container_id)
                await patiently(self.backend.remove_container(container_id))
        for sandbox_id in self._sandboxes:
            with contextlib.suppress(NotFound):
                await patiently(self.backend.stop_sandbox(sandbox_id))
            with contextlib.suppress(NotFound):
                await patiently(self.backend.remove_sandbox(sandbox_id))
            if self.candidate.context.namespaces is not None:
                await self.candidate.context.namespaces.remove(sandbox_id)
        self._containers.clear()
        self._sandboxes.clear()


async def patiently(work: Awaitable[T]) -> T:
    """Await a verb that must return by itself."""
    async with asyncio.timeout(TIMEOUT):
        return await work


async def until(true: Callable[[], bool]) -> None:
    """Poll a condition without an event, such as the content of a file."""
    async with asyncio.timeout(TIMEOUT):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
