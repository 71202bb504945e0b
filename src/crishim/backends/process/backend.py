"""The ten verbs over plain child processes."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import attrs

from crishim import __version__
from crishim.backends.process.adopted import AdoptedContainer, ContainerProcess
from crishim.backends.process.container import ExecutingContainer, ProcessContainer
from crishim.backends.process.kept import KeptContainer
from crishim.backends.process.state import StateFolder, StoredContainer, StoredSandbox
from crishim.backends.process.usage import usage
from crishim.errors import AlreadyExists, FailedPrecondition, NotFound
from crishim.interfaces.backend import Backend, BackendContext, BackendInfo, NetnsSource
from crishim.interfaces.capabilities import (
    ByteStream,
    ProcessIO,
    SupportsAttach,
    SupportsClose,
    SupportsExec,
    SupportsLogReopen,
    SupportsPortForward,
    SupportsStats,
)
from crishim.interfaces.keeper import Keeper
from crishim.linux.processes import Process, all_processes, family
from crishim.linux.tcp import dial_loopback
from crishim.model.container import ContainerSpec, Inventory
from crishim.model.features import PROCESS, Feature
from crishim.model.process import ExecSpec, Exit
from crishim.model.sandbox import ObservedSandbox, SandboxSpec, SandboxStarted
from crishim.model.stats import ContainerUsage, SandboxUsage
from crishim.model.values import ContainerId, SandboxId

CENSUS_AGE: Final = 0.5
"""Seconds for which one scan of all processes is used for usage, which is requested for all containers at once."""


class ProcessBackend(
    Backend, SupportsExec, SupportsAttach, SupportsPortForward, SupportsStats, SupportsLogReopen, SupportsClose
):
    """Runs containers as child processes. `close` ends them all; the package's docstring describes the limits.

    `ignored` are features that this backend does not support and accepts nevertheless. With a `keeper` containers are its
    children, and outlive this backend.
    """

    def __init__(self, context: BackendContext, ignored: Collection[Feature] = (), keeper: Keeper | None = None) -> None:
        self._clock = context.clock
        self._keeper = keeper
        self._supported = PROCESS | frozenset(ignored)
        self._keeping = StateFolder(context.runtime_state)
        self._sandboxes: dict[SandboxId, StoredSandbox] = {}
        self._containers: dict[ContainerId, ContainerProcess] = {}
        self._found = False
        self._finding = asyncio.Lock()
        self._census: Mapping[int, Process] = {}
        self._census_at = float("-inf")

    async def probe(self) -> BackendInfo:
        """Always answers."""
        return BackendInfo(name="process", version=__version__, netns=NetnsSource.NONE, supported=self._supported)

    async def inventory(self) -> Inventory:
        """All sandboxes and containers, including those of an earlier crishim of this boot."""
        await self._find()
        return Inventory(
            sandboxes=tuple(ObservedSandbox(id=sandbox.id, ready=sandbox.ready) for sandbox in self._sandboxes.values()),
            containers=tuple(container.observed() for container in self._containers.values()),
        )

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        """Record the sandbox, of which there are no processes."""
        await self._find()
        if spec.id in self._sandboxes:
            raise AlreadyExists("sandbox", spec.id)
        self._keep(StoredSandbox(id=spec.id, ready=True))
        return SandboxStarted()

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        """Record that the sandbox is stopped."""
        self._keep(attrs.evolve(await self._sandbox(sandbox_id), ready=False))

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        """Delete the sandbox's record."""
        await self._sandbox(sandbox_id)
        self._keeping.forget_sandbox(sandbox_id)
        del self._sandboxes[sandbox_id]

    async def create_container(self, spec: ContainerSpec) -> None:
        """Open its log and create its streams."""
        await self._sandbox(spec.sandbox.id)
        if spec.id in self._containers:
            raise AlreadyExists("container", spec.id)
        if self._keeper is None:
            self._containers[spec.id] = ProcessContainer(spec, self._clock, self._keeping)
        else:
            self._containers[spec.id] = KeptContainer.created(spec, self._clock, self._keeping, self._keeper)

    async def start_container(self, container_id: ContainerId) -> None:
        """Start its process. Raises `InvalidArgument` for a program that cannot be run."""
        await (await self._own(container_id)).start()

    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        """Send a signal to its first process; SIGKILL goes to all its processes and execs."""
        await (await self._container(container_id)).kill(signal)

    async def wait_container(self, container_id: ContainerId) -> Exit:
        """Its exit status, once it has exited."""
        return await (await self._container(container_id)).wait()

    async def remove_container(self, container_id: ContainerId) -> None:
        """Remove the container without its log; running processes are killed."""
        await (await self._container(container_id)).remove()
        self._containers.pop(container_id, None)

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        """Run one more process with the container's environment and working directory, in a session of its own."""
        return await (await self._own(container_id)).exec(spec, io)

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """Join the container's streams."""
        await (await self._own(container_id)).attach(io)

    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        """Connect to a port of this machine: all sandboxes share its network."""
        await self._sandbox(sandbox_id)
        return await dial_loopback(port)

    async def reopen_log(self, container_id: ContainerId) -> None:
        """Continue in a new log file."""
        await (await self._own(container_id)).reopen_log()

    async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
        """The usage of its processes and execs; nothing is measured of a container that does not run."""
        members = await self._members([await self._container(container_id)])
        if not members:
            return ContainerUsage()
        cpu, memory, process = usage(members, self._clock.now())
        return ContainerUsage(cpu=cpu, memory=memory, process=process)

    async def sandbox_usage(self, sandbox_id: SandboxId) -> SandboxUsage:
        """The sum over its containers."""
        await self._sandbox(sandbox_id)
        members = await self._members(
            container for container in self._containers.values() if container.sandbox_id == sandbox_id
        )
        cpu, memory, process = usage(members, self._clock.now())
        return SandboxUsage(cpu=cpu, memory=memory, process=process)

    async def close(self) -> None:
        """Kill every container but those in the keeper, and return when they have exited. The exits are stored for a later
        crishim of this boot.
        """
        for container in self._containers.values():
            await container.leave()

    async def _find(self) -> None:
        async with self._finding:
            if self._found:
                return
            self._sandboxes = {stored.id: stored for stored in self._keeping.sandboxes()}
            for stored in self._keeping.containers():
                if stored.id in self._containers:  # found by a call that was cancelled
                    continue
                self._containers[stored.id] = await self._resumed(stored)
            self._found = True

    async def _resumed(self, stored: StoredContainer) -> ContainerProcess:
        if stored.request is not None and self._keeper is not None:
            return await KeptContainer.found(stored, stored.request, self._clock, self._keeping, self._keeper)
        container = AdoptedContainer(stored, self._clock, self._keeping)
        await container.find()
        return container

    def _keep(self, sandbox: StoredSandbox) -> None:
        self._keeping.put(sandbox)
        self._sandboxes[sandbox.id] = sandbox

    async def _sandbox(self, sandbox_id: SandboxId) -> StoredSandbox:
        await self._find()
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            raise NotFound("sandbox", sandbox_id)
        return sandbox

    async def _container(self, container_id: ContainerId) -> ContainerProcess:
        await self._find()
        container = self._containers.get(container_id)
        if container is None:
            raise NotFound("container", container_id)
        return container

    async def _own(self, container_id: ContainerId) -> ExecutingContainer:
        container = await self._container(container_id)
        if not isinstance(container, ExecutingContainer):
            raise FailedPrecondition("started by an earlier crishim", "started by this one", f"container {container_id}")
        return container

    async def _members(self, containers: Iterable[ContainerProcess]) -> list[Process]:
        leaders = [leader for container in containers if container.runs for leader in container.leaders]
        now = self._clock.monotonic()
        if now - self._census_at > CENSUS_AGE or not all(leader.pid in self._census for leader in leaders):
            self._census, self._census_at = await asyncio.to_thread(all_processes), now
        return family(leaders, self._census)
