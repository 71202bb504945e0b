"""The capabilities that pods get from their runtime: exec, attach, updates, log rotation, pause, checkpoints.

Each verb of a `Backend` is implemented by one of the `OciRuntime`. The constructor checks which ones the runtime has:
`capabilities` has those, and the other verbs raise `Unimplemented`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from crishim.errors import NotFound, Unimplemented
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.capabilities import (
    ProcessIO,
    SupportsAttach,
    SupportsCheckpoint,
    SupportsExec,
    SupportsLeftovers,
    SupportsLogReopen,
    SupportsPause,
    SupportsUpdate,
    capabilities,
)
from crishim.interfaces.oci_runtime import (
    RUNTIME_CAPABILITIES,
    OciRuntime,
    SupportsCheckpointRestore,
    SupportsExecProcess,
    SupportsUpdateResources,
)
from crishim.model.container import CheckpointOrigin, ContainerStatus
from crishim.model.process import ExecSpec, Exit
from crishim.model.resources import Resources
from crishim.model.runtime import PodCheckpoint
from crishim.model.values import ContainerId, SandboxId
from crishim.oci.facts import Host
from crishim.oci.resources import resources as oci_resources
from crishim.oci.spec import process_of
from crishim.pods import archives
from crishim.pods.bundle import read_config
from crishim.pods.checkpoints import Checkpoints

CLAIMS: Final[Mapping[type, type]] = {
    SupportsExecProcess: SupportsExec,
    SupportsUpdateResources: SupportsUpdate,
    SupportsAttach: SupportsAttach,
    SupportsLogReopen: SupportsLogReopen,
    SupportsPause: SupportsPause,
    SupportsCheckpointRestore: SupportsCheckpoint,
    SupportsLeftovers: SupportsLeftovers,
}
"""The protocol of a runtime, and the capability of a backend that it implements."""


class RuntimeCapabilities(
    SupportsExec, SupportsAttach, SupportsUpdate, SupportsLogReopen, SupportsPause, SupportsCheckpoint, SupportsLeftovers
):
    """The capabilities of pods over `runtime`; `bundles` has one folder per container, named by its id."""

    def __init__(self, runtime: OciRuntime, host: Host, bundles: Path, context: BackendContext) -> None:
        self._runtime = runtime
        self._host = host
        self._bundles = bundles
        self._context = context
        self._checkpoints = Checkpoints(runtime, bundles, context.clock, context.rootfs)
        claimed = capabilities(runtime, RUNTIME_CAPABILITIES)
        self.capabilities: frozenset[type] = frozenset(claim for has, claim in CLAIMS.items() if has in claimed)

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        """As `SupportsExec.exec`: the process of config.json, with the arguments and the terminal of `spec`."""
        if not isinstance(self._runtime, SupportsExecProcess):
            raise Unimplemented("SupportsExec")
        config = await asyncio.to_thread(read_config, self._bundle(container_id))
        process = process_of(config, spec.argv, terminal=spec.tty)
        return await self._runtime.exec_process(container_id, process, io, lambda _: None)

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""
        if not isinstance(self._runtime, SupportsAttach):
            raise Unimplemented("SupportsAttach")
        await self._runtime.attach(container_id, io)

    async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
        """As `SupportsUpdate.update_container`."""
        if not isinstance(self._runtime, SupportsUpdateResources):
            raise Unimplemented("SupportsUpdate")
        await self._runtime.update_resources(container_id, oci_resources(resources, self._host))

    async def reopen_log(self, container_id: ContainerId) -> None:
        """As `SupportsLogReopen.reopen_log`."""
        if not isinstance(self._runtime, SupportsLogReopen):
            raise Unimplemented("SupportsLogReopen")
        await self._runtime.reopen_log(container_id)

    async def pause_container(self, container_id: ContainerId) -> None:
        """As `SupportsPause.pause_container`."""
        self._bundle(container_id)
        await self._checkpoints.pause(container_id)

    async def resume_container(self, container_id: ContainerId) -> None:
        """As `SupportsPause.resume_container`."""
        await self._checkpoints.resume(container_id)

    async def checkpoint(self, container_id: ContainerId, path: str, status: ContainerStatus, addresses: Sequence[str]) -> None:
        """As `SupportsCheckpoint.checkpoint`."""
        self._bundle(container_id)
        await self._checkpoints.write(container_id, Path(path), status, addresses)

    async def checkpoint_origin(self, path: str) -> CheckpointOrigin:
        """As `SupportsCheckpoint.checkpoint_origin`."""
        return await self._checkpoints.origin(path)

    async def write_pod_checkpoint(self, folder: str, checkpoint: PodCheckpoint) -> None:
        """As `SupportsCheckpoint.write_pod_checkpoint`."""
        await asyncio.to_thread(archives.write_manifest, Path(folder), checkpoint, self._context.clock.now())

    async def read_pod_checkpoint(self, folder: str) -> PodCheckpoint:
        """As `SupportsCheckpoint.read_pod_checkpoint`."""
        return await asyncio.to_thread(archives.read_manifest, Path(folder))

    def leftovers(self) -> Mapping[SandboxId, Sequence[str]]:
        """As `SupportsLeftovers.leftovers`."""
        if not isinstance(self._runtime, SupportsLeftovers):
            raise Unimplemented("SupportsLeftovers")
        return self._runtime.leftovers()

    def _bundle(self, container_id: ContainerId) -> Path:
        folder = self._bundles / container_id
        if not folder.exists():
            raise NotFound("container", container_id)
        return folder
