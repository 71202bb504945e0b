"""An OciRuntime whose containers are entries of a table: tests check the shim server's calls of it."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from crishim.errors import NotFound
from crishim.interfaces.backend import BackendInfo
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import OciState, OciStatus, Stdio
from crishim.model.features import OCI
from crishim.model.process import Exit
from crishim.model.values import ContainerId
from crishim.shimv2.server.task import Creation, Task, TaskEvents

PID = 4_000_000_000
"""No process has it."""


@attrs.define
class Container:
    """One container; `end` is done when it has ended."""

    bundle: Path
    stdio: Stdio
    status: OciStatus = OciStatus.CREATED
    end: "asyncio.Future[Exit]" = attrs.field(factory=lambda: asyncio.get_running_loop().create_future())


class MemoryRuntime:
    """Signals end containers with 128 + their number, and `execs` has the exits of execs."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.updates: list[Mapping[str, Any]] = []
        self.processes: list[Mapping[str, Any]] = []
        self.exec_end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.exec_io = ProcessIO()
        self.refusal: Exception | None = None
        self.kills: list[tuple[int, bool]] = []
        self.supported = OCI
        self.probes = 0

    def _find(self, container_id: str) -> Container:
        try:
            return self.containers[container_id]
        except KeyError:
            raise NotFound("container", container_id) from None

    async def probe(self) -> BackendInfo:
        self.probes += 1
        return BackendInfo(name="memory", version="0", supported=self.supported)

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        if self.refusal is not None:
            raise self.refusal
        self.containers[container_id] = Container(bundle, stdio)
        return PID

    async def start(self, container_id: str) -> None:
        self._find(container_id).status = OciStatus.RUNNING

    async def state(self, container_id: str) -> OciState:
        return OciState(id=container_id, status=self._find(container_id).status, pid=PID)

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        self.kills.append((signal, everyone))
        container = self._find(container_id)
        if container.end.done():
            if everyone:  # others may live on, as with runc
                return
            raise NotFound("container", container_id)
        container.status = OciStatus.STOPPED
        container.end.set_result(Exit(code=128 + signal, at=7))

    async def delete(self, container_id: str) -> None:
        container = self._find(container_id)
        if not container.end.done():
            container.end.set_result(Exit(code=137, at=9))
        del self.containers[container_id]

    async def wait(self, container_id: str) -> Exit:
        return await asyncio.shield(self._find(container_id).end)

    async def exec_process(
        self, container_id: str, process: Mapping[str, Any], io: ProcessIO, started: Callable[[int], None]
    ) -> Exit:
        self._find(container_id)
        if self.refusal is not None:
            raise self.refusal
        self.processes.append(process)
        self.exec_io = io
        started(PID + 1)
        if io.stdout is not None:
            await io.stdout.write(b"of the exec\n")
        return await asyncio.shield(self.exec_end)

    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None:
        self._find(container_id)
        self.updates.append(resources)

    async def pause_container(self, container_id: ContainerId) -> None:
        self._find(container_id).status = OciStatus.PAUSED

    async def resume_container(self, container_id: ContainerId) -> None:
        self._find(container_id).status = OciStatus.RUNNING


class Heard(TaskEvents):
    """TaskEvents as a list of words."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def created(self, task: Task, creation: Creation) -> None:
        self.words.append(f"create {task.id}")

    def started(self, task: Task) -> None:
        self.words.append(f"start {task.id}")

    def exec_added(self, task: Task, exec_id: str) -> None:
        self.words.append(f"exec-added {exec_id}")

    def exec_started(self, task: Task, exec_id: str, pid: int) -> None:
        self.words.append(f"exec-started {exec_id}")

    def exited(self, task: Task, exec_id: str, pid: int, end: Exit) -> None:
        self.words.append(f"exit {exec_id or task.id} {end.code}")

    def deleted(self, task: Task, end: Exit) -> None:
        self.words.append(f"delete {task.id} {end.code}")

    def paused(self, task: Task, *, paused: bool) -> None:
        self.words.append(f"{'paused' if paused else 'resumed'} {task.id}")
