"""A backend whose containers outlive the server: the node's keeper runs their programs, and has their streams and exits."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from crishim import (
    Backend,
    BackendContext,
    BackendInfo,
    ContainerId,
    ContainerSpec,
    ContainerState,
    CrishimError,
    Exit,
    FailedPrecondition,
    InvalidArgument,
    Inventory,
    KeepRequest,
    NotFound,
    ObservedContainer,
    ObservedSandbox,
    Plugin,
    ProcessIO,
    SandboxId,
    SandboxSpec,
    SandboxStarted,
    SupportsAttach,
    SupportsLogReopen,
    Unavailable,
)
from crishim.backends.process import HostImages


class LastingBackend(Backend, SupportsAttach, SupportsLogReopen):
    def __init__(self, context: BackendContext) -> None:
        if context.keeper is None:
            raise FailedPrecondition("missing", "there", "the node's keeper")
        self._keeper = context.keeper
        self._folder = context.runtime_state / "lasting"  # which a reboot clears, as it ends all processes
        (self._folder / "pods").mkdir(parents=True, exist_ok=True)
        (self._folder / "containers").mkdir(exist_ok=True)

    async def probe(self) -> BackendInfo:
        return BackendInfo(name="lasting", version="1.0.0")

    async def inventory(self) -> Inventory:
        ends = await self._keeper.exits()
        pods = [ObservedSandbox(id=SandboxId(file.name), ready=file.read_text() == "ready") for file in self._files("pods")]
        containers = [self._observe(file, ends) for file in self._files("containers")]
        return Inventory(sandboxes=tuple(pods), containers=tuple(containers))

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        (self._folder / "pods" / spec.id).write_text("ready")
        return SandboxStarted()

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        self._file("pods", sandbox_id).write_text("stopped")

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        self._file("pods", sandbox_id).unlink()

    async def create_container(self, spec: ContainerSpec) -> None:
        wanted = {
            "pod": spec.sandbox.id,
            "argv": list(spec.argv),
            "env": dict(spec.env),
            "cwd": spec.cwd,
            "log": spec.log_path,
            "tty": spec.tty,
            "stdin": spec.stdin,
            "stdin_once": spec.stdin_once,
            "started": False,
        }
        (self._folder / "containers" / spec.id).write_text(json.dumps(wanted))

    async def start_container(self, container_id: ContainerId) -> None:
        wanted = json.loads(self._file("containers", container_id).read_text())
        request = KeepRequest(
            name=container_id,
            argv=tuple(wanted["argv"]),
            env=wanted["env"],
            cwd=wanted["cwd"],
            log_path=wanted["log"],
            terminal=wanted["tty"],
            stdin=wanted["stdin"],
            stdin_once=wanted["stdin_once"],
        )
        try:
            await self._keeper.keep(request)
        except CrishimError as error:
            raise InvalidArgument("config.command", f"{request.argv[0]}: {error.message}") from error
        self._file("containers", container_id).write_text(json.dumps({**wanted, "started": True}))

    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        self._file("containers", container_id)
        with contextlib.suppress(Unavailable):  # its keeper has died
            await self._keeper.kill(container_id, signal)

    async def wait_container(self, container_id: ContainerId) -> Exit:
        self._file("containers", container_id)
        try:
            return await self._keeper.wait(container_id)
        except (NotFound, Unavailable):
            return Exit.unknown()

    async def remove_container(self, container_id: ContainerId) -> None:
        self._file("containers", container_id).unlink()
        with contextlib.suppress(NotFound, Unavailable):  # it was never started
            await self._keeper.forget(container_id)

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        await self._keeper.attach(container_id, io)

    async def reopen_log(self, container_id: ContainerId) -> None:
        await self._keeper.reopen_log(container_id)

    def _observe(self, file: Path, ends: Mapping[str, Exit | None]) -> ObservedContainer:
        wanted = json.loads(file.read_text())
        end = ends.get(file.name, Exit.unknown()) if wanted["started"] else None  # without its keeper nobody knows
        state = ContainerState.EXITED if end else ContainerState.RUNNING if wanted["started"] else ContainerState.CREATED
        return ObservedContainer(id=ContainerId(file.name), sandbox_id=SandboxId(wanted["pod"]), state=state, exit=end)

    def _files(self, kind: str) -> list[Path]:
        return sorted((self._folder / kind).iterdir())

    def _file(self, kind: str, name: str) -> Path:
        file = self._folder / kind / name
        if not file.exists():
            raise NotFound("sandbox or container", name)
        return file


plugin = Plugin(build=LastingBackend, images=HostImages)
