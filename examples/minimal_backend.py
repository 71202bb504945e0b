"""A complete backend: containers are child processes. Ten verbs, and logs that `kubectl logs` shows."""

import asyncio
from typing import Any

from crishim import (
    Backend,
    BackendContext,
    BackendInfo,
    ContainerId,
    ContainerSpec,
    ContainerState,
    ContainerStdio,
    Exit,
    InvalidArgument,
    Inventory,
    NetnsSource,
    NotFound,
    ObservedContainer,
    ObservedSandbox,
    Plugin,
    SandboxId,
    SandboxSpec,
    SandboxStarted,
)
from crishim.backends.process import HostImages  # every image counts as present: programs are the machine's


class MinimalBackend(Backend):
    def __init__(self, context: BackendContext) -> None:
        self._clock = context.clock
        self._sandboxes: dict[SandboxId, bool] = {}
        self._specs: dict[ContainerId, ContainerSpec] = {}
        self._runs: dict[ContainerId, tuple[asyncio.subprocess.Process, asyncio.Task[Exit]]] = {}

    async def probe(self) -> BackendInfo:
        return BackendInfo(name="minimal", version="1.0.0", netns=NetnsSource.NONE)

    async def inventory(self) -> Inventory:
        sandboxes = tuple(ObservedSandbox(id=id, ready=ready) for id, ready in self._sandboxes.items())
        return Inventory(sandboxes=sandboxes, containers=tuple(self._observe(spec) for spec in self._specs.values()))

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        self._sandboxes[spec.id] = True
        return SandboxStarted()

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        self._known(self._sandboxes, sandbox_id)
        self._sandboxes[sandbox_id] = False

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        self._known(self._sandboxes, sandbox_id)
        del self._sandboxes[sandbox_id]

    async def create_container(self, spec: ContainerSpec) -> None:
        self._specs[spec.id] = spec

    async def start_container(self, container_id: ContainerId) -> None:
        spec = self._known(self._specs, container_id)
        stdio = ContainerStdio(spec, self._clock)  # pipes, CRI log, attach, stdin
        ends = stdio.open()
        try:
            child = await asyncio.create_subprocess_exec(
                *spec.argv,
                env=dict(spec.env),
                cwd=spec.cwd,
                stdin=ends.stdin,
                stdout=ends.stdout,
                stderr=ends.stderr,
                start_new_session=True,
            )
        except OSError as error:
            await stdio.close()
            raise InvalidArgument("config.command", f"{spec.argv[0]}: {error.strerror}") from error
        stdio.started()
        self._runs[container_id] = child, asyncio.create_task(self._watch(child, stdio))

    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        child, _ = self._known(self._runs, container_id)
        if child.returncode is None:
            child.send_signal(signal)

    async def wait_container(self, container_id: ContainerId) -> Exit:
        _, watch = self._known(self._runs, container_id)
        return await asyncio.shield(watch)

    async def remove_container(self, container_id: ContainerId) -> None:
        self._known(self._specs, container_id)
        del self._specs[container_id]
        self._runs.pop(container_id, None)

    async def _watch(self, child: asyncio.subprocess.Process, stdio: ContainerStdio) -> Exit:
        returncode = await child.wait()
        await stdio.drained()  # the log is complete before the exit is reported
        await stdio.close()
        return Exit.from_returncode(returncode)

    def _observe(self, spec: ContainerSpec) -> ObservedContainer:
        ended = spec.id in self._runs and self._runs[spec.id][1].done()
        state = ContainerState.EXITED if ended else ContainerState.RUNNING if spec.id in self._runs else ContainerState.CREATED
        end = self._runs[spec.id][1].result() if ended else None
        return ObservedContainer(id=spec.id, sandbox_id=spec.sandbox.id, state=state, exit=end)

    def _known(self, items: dict[Any, Any], key: str) -> Any:
        if key not in items:
            raise NotFound("sandbox or container", key)
        return items[key]


plugin = Plugin(
    build=MinimalBackend,
    images=HostImages,
    exam={"survives_restart": False},  # its children end with it: the suite expects no more then
)
