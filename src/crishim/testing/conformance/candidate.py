"""The backend under test, and the environment of one check."""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import attrs

from crishim.errors import CrishimError, NotFound
from crishim.interfaces.backend import Backend, BackendContext, BackendInfo, NetnsSource
from crishim.interfaces.capabilities import SupportsClose, capabilities
from crishim.lifecycle.resolve import DEFAULT_PATH
from crishim.model.container import ContainerMetadata, ContainerSpec, ContainerState, ObservedContainer
from crishim.model.image import ImageSpec
from crishim.model.process import Exit
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import EMPTY, ContainerId, FrozenDict, ImageId, SandboxId
from crishim.oci.facts import Host
from crishim.pods.host import host
from crishim.pods.sources import CDI_FOLDERS
from crishim.testing.conformance.programs import Fact, Programs, needed
from crishim.testing.faults import traced

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds after which the suite fails a verb that has no deadline in the contract."""

LIMIT: Final = 180.0
"""Seconds for one check; each verb in it has a limit of its own."""

MARK: Final = "CRISHIM_EXAM"
"""The variable in the environment of the exam's containers. Its value is the check's own, and finds what is left of them."""


@attrs.define(kw_only=True)
class Candidate:
    """A backend under test: how to build it, its programs, and its known weaknesses.

    `make` is called with the same context again to test a restart. `survives_restart`: containers keep running across a
    restart. `restores_exit`: the exit status of a container that exited meanwhile is known afterwards. `streams_survive`: after
    a restart a container's output is logged, it can be attached to, take an exec and have its log rotated, and be started if it
    was only created. `writable_root`: a container can write to its root file system, unless it is to be read-only.
    `in_memory`: the backend's state does not outlive this process, so that a restart is another object in it. `ignores` are
    the plug-in's: fields of CRI that have no effect. `close` disconnects a backend whose containers go on. It is called before
    a restart in this process, and at the end of a check only for a backend that does not claim `SupportsClose`. `limit` is in
    seconds, for one check. `mark` is the value of MARK. `release` frees what `context` has from the exam. `node` is the machine
    that the containers run on.
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
    streams_survive: bool = True
    writable_root: bool = True
    in_memory: bool = False
    ignores: Mapping[str, str] = EMPTY
    limit: float = LIMIT
    node: Host = attrs.Factory(host)
    mark: str = attrs.Factory(lambda: secrets.token_hex(8))
    close: Callable[[Backend], Awaitable[None]] | None = None
    release: Callable[[], None] = lambda: None

    @property
    def cdi_file(self) -> Path:
        """Where a check describes devices of its own to the machine. It is removed after each check."""
        return CDI_FOLDERS[-1] / f"exam-{self.mark}.json"

    @contextlib.asynccontextmanager
    async def world(self, calls: list[str]) -> "AsyncIterator[World]":
        """An empty backend, which must be empty again at the end. Its calls are added to `calls`, a line each."""
        world = World(self, await self.make(self.context), calls)
        try:
            await world.begin()
            yield world
            await world.tidy()
            left = await world.backend.inventory()
            assert not [seen for seen in left.sandboxes if seen.ours], f"left behind: {left}"
            assert not [seen for seen in left.containers if seen.ours], f"left behind: {left}"
        except BaseException:
            with contextlib.suppress(CrishimError, AssertionError, TimeoutError):
                await world.tidy()
            with contextlib.suppress(Exception):  # the check's own failure counts
                await world.close()
            raise
        await world.close()


class World:
    """One backend during one check. It calls the verbs in the library's order, and removes what a check leaves."""

    def __init__(self, candidate: Candidate, backend: Backend, calls: list[str] | None = None) -> None:
        self.candidate = candidate
        self.calls = [] if calls is None else calls
        self._own = backend
        self.backend = traced(backend, self.calls)
        self.programs = candidate.programs
        self.info: BackendInfo
        self._mark = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._sandboxes: list[SandboxId] = []
        self._containers: list[ContainerId] = []

    async def begin(self) -> None:
        """Probe the backend and read its inventory, as the library does at its start."""
        self.info = await patiently(self.backend.probe())
        await patiently(self.backend.inventory())
        if self.info.netns is NetnsSource.LIBRARY and self.candidate.context.namespaces is None:
            raise AssertionError(
                "NetnsSource.LIBRARY needs a plug-in with `needs_node`: nobody else makes its pods' namespaces"
            )

    def claims(self, capability: type) -> bool:
        """Whether the backend claims a capability."""
        return capability in capabilities(self.backend)

    async def close_and_restart(self) -> None:
        """Call `SupportsClose.close`, as the end of `crishim play` does, and build the backend again over the same folders."""
        await patiently(cast("SupportsClose", self.backend).close())
        await self._build()

    async def restart(self) -> None:
        """Drop the backend as a crash would, and build it again over the same folders."""
        await self._disconnect()
        await self._build()

    async def _build(self) -> None:
        self._own = await self.candidate.make(self.candidate.context)
        self.backend = traced(self._own, self.calls)
        await self.begin()

    def adopt(self, sandboxes: list[SandboxId], containers: list[ContainerId]) -> None:
        """Remove these at the end, too: a process that was killed has made them."""
        self._sandboxes += sandboxes
        self._containers += containers

    @property
    def made(self) -> tuple[list[SandboxId], list[ContainerId]]:
        """What this check has made."""
        return self._sandboxes, self._containers

    @property
    def pods_are_apart(self) -> bool:
        """Whether a pod has namespaces of its own."""
        return self.info.netns is not NetnsSource.NONE and not self.candidate.host_network

    async def close(self) -> None:
        """Close the backend at the end of a check, as at the end of `crishim play`."""
        if isinstance(self.backend, SupportsClose) and self.claims(SupportsClose):
            await patiently(self.backend.close())
        else:
            await self._disconnect()

    async def _disconnect(self) -> None:
        if self.candidate.close is not None:
            await self.candidate.close(self._own)

    def shows(self, fact: Fact) -> tuple[str, ...]:
        """The command that prints a fact. Raises `LeftOut` where a process cannot find it out."""
        return needed(self.programs.shows(fact), f"show {fact}")

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
        values: dict[str, Any] = {"id": SandboxId(f"{self._mark}{number:x}5".rjust(64, "e")), "config": config}
        return SandboxSpec(**{**values, **changes})

    def container_spec(self, sandbox: SandboxSpec, argv: tuple[str, ...], **changes: Any) -> ContainerSpec:
        """A plain container that logs below the scratch folder."""
        number = next(self._numbers)
        values: dict[str, Any] = {
            "id": ContainerId(f"{self._mark}{number:x}c".rjust(64, "e")),
            "sandbox": sandbox,
            "metadata": ContainerMetadata(f"c{number}"),
            "image": self.candidate.image,
            "image_id": self.candidate.image_id,
            "argv": argv,
            "env": FrozenDict({"PATH": DEFAULT_PATH, MARK: self.candidate.mark}),
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


async def still_runs(world: World, container_id: ContainerId) -> None:
    """Raise `AssertionError` unless the inventory has the container as running."""
    seen = await world.seen(container_id)
    assert seen is not None
    assert ContainerState.RUNNING is seen.state


def equal(expected: object, actual: object) -> None:
    """Raise `AssertionError` with both values if they differ."""
    assert expected == actual, f"expected {expected!r}, and was {actual!r}"
