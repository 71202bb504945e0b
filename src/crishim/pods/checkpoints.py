"""Checkpoints of containers: freezing them, writing archives, and recovery after an interrupted checkpoint.

A container is frozen while its processes and its files are read, so that both are of the same moment. A marker file is written
to its bundle before; a server that finds the marker after a crash resumes the container. A dump is not cancelled while it makes
progress: a CRIU killed in the middle may leave the container's processes seized. A caller that gives up only stops waiting.
"""

import asyncio
import contextlib
import json
import logging
import shutil
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import Aborted, CrishimError, FailedPrecondition, NotFound, Unimplemented
from crishim.interfaces.capabilities import SupportsPause
from crishim.interfaces.oci_runtime import FIRST_PROCESS, OciRuntime, OciStatus, Stdio, SupportsCheckpointRestore
from crishim.interfaces.seats import Clock, RootfsProvider, SupportsRootfsDiff
from crishim.linux import processes
from crishim.model.container import CheckpointOrigin, ContainerSpec, ContainerStatus
from crishim.model.security import NamespaceMode
from crishim.model.values import ContainerId, ImageId
from crishim.oci import archive
from crishim.pods import archives
from crishim.pods.bundle import read_config, write_atomically
from crishim.pods.observer import read
from crishim.pods.pid_namespaces import pid_options

_log = logging.getLogger(__name__)

FROZEN: Final = "frozen"
"""A file of a bundle: the container is frozen for a checkpoint. Contains the path of the work folder, or nothing."""

RESTORE: Final = "restore"
"""A file in the bundle of a restored container: its `Stdio`, as JSON."""

RESTORED: Final = "restored"
"""A folder of the bundle with the unpacked archive; deleted once the container runs."""


class Checkpoints:
    """Checkpoints of the containers of `runtime`; `bundles` has one folder per container, named by its id."""

    def __init__(self, runtime: OciRuntime, bundles: Path, clock: Clock, roots: RootfsProvider | None) -> None:
        self._runtime = runtime
        self._bundles = bundles
        self._clock = clock
        self._roots = roots
        self._paused: set[ContainerId] = set()
        self._dumps: dict[ContainerId, asyncio.Task[None]] = {}
        self._recoveries: set[asyncio.Task[None]] = set()

    async def pause(self, container_id: ContainerId) -> None:
        """As `SupportsPause.pause_container`; a marker file lets a later server resume it after a crash."""
        note = self._bundles / container_id / FROZEN
        self._paused.add(container_id)
        write_atomically(note, read(note))
        await self._pauser().pause_container(container_id)

    async def resume(self, container_id: ContainerId) -> None:
        """As `SupportsPause.resume_container`. Does nothing if the container has stopped."""
        try:
            await self._pauser().resume_container(container_id)
        finally:
            self._paused.discard(container_id)
            (self._bundles / container_id / FROZEN).unlink(missing_ok=True)

    async def write(self, container_id: ContainerId, path: Path, status: ContainerStatus, addresses: Sequence[str]) -> None:
        """Write an archive; then the container is resumed, unless `pause` froze it. A cancelled caller stops waiting, the dump
        goes on.

        Raises `FailedPrecondition` while another archive of the container is written.
        """
        if container_id in self._dumps:
            raise FailedPrecondition("being dumped", "without another checkpoint under way", f"container {container_id}")
        task = asyncio.create_task(self._write(container_id, path, status, addresses), name=f"checkpoint of {container_id}")
        self._dumps[container_id] = task
        task.add_done_callback(lambda ended: self._forget(container_id, ended))
        await asyncio.shield(task)

    def recover(self) -> None:
        """Resume the containers that an earlier process has frozen, and delete its incomplete archives."""
        for note in self._bundles.glob(f"*/{FROZEN}"):
            container_id = ContainerId(note.parent.name)
            if container_id not in self._paused and container_id not in self._dumps:
                task = asyncio.create_task(self._recover(container_id, note.parent), name=f"resuming {container_id}")
                self._recoveries.add(task)
                task.add_done_callback(self._recoveries.discard)

    async def origin(self, source: str) -> CheckpointOrigin:
        """As `SupportsCheckpoint.checkpoint_origin`."""
        async with self._content(source) as path:
            return await asyncio.to_thread(archives.origin, path)

    async def unpack(self, bundle: Path, source: str, spec: ContainerSpec, stdio: Stdio) -> None:
        """Prepare what `restored` needs, and the diff for the root file system, which `prepare` of the `RootfsProvider` mounts.

        Raises `Unimplemented` if the runtime or the `RootfsProvider` cannot restore, and the errors of `archives.origin` and
        `unpack`.
        """
        await self._restorer().require_checkpoints()
        if pid_options(spec).pid is NamespaceMode.TARGET:
            raise Unimplemented("SupportsCheckpoint", "a container in another one's PID namespace is not restored")
        roots: object = self._roots
        if not isinstance(roots, SupportsRootfsDiff):
            raise Unimplemented("SupportsRootfsDiff", "the RootfsProvider of this node restores no checkpoints")
        async with self._content(source) as path:
            await asyncio.to_thread(archives.origin, path)
            await asyncio.to_thread(archives.unpack, path, bundle / RESTORED)
        layer = await asyncio.to_thread(archives.layer_of, bundle / RESTORED)
        await roots.apply(spec.id, spec.image_id, layer)
        write_atomically(bundle / RESTORE, json.dumps(attrs.asdict(stdio)))

    @contextlib.asynccontextmanager
    async def _content(self, source: str) -> AsyncIterator[Path]:
        """The path of an archive, or of the content of a checkpoint image, which is mounted for the duration."""
        if source.startswith("/"):
            yield Path(source)
            return
        if self._roots is None:
            raise NotFound("checkpoint", source)
        reader = ContainerId(f"checkpoint-{uuid.uuid4().hex}")
        try:
            yield await self._roots.view(reader, ImageId(source))
        finally:
            await self._roots.release(reader)

    async def restored(self, bundle: Path) -> bool:
        """Restore the processes of a container that was created from an archive; False for any other container."""
        if not (bundle / RESTORE).exists():
            return False
        stdio = Stdio(**json.loads(read(bundle / RESTORE)))
        pid = await self._restorer().restore_images(bundle.name, bundle, stdio, bundle / RESTORED / archive.IMAGES)
        processes.record(bundle / FIRST_PROCESS, pid)
        await asyncio.to_thread(shutil.rmtree, bundle / RESTORED, ignore_errors=True)
        return True

    def _forget(self, container_id: ContainerId, ended: "asyncio.Task[None]") -> None:
        self._dumps.pop(container_id, None)
        if not ended.cancelled() and (error := ended.exception()) is not None:
            _log.info("the checkpoint of container %s has failed: %s", container_id, error)

    async def _write(self, container_id: ContainerId, path: Path, status: ContainerStatus, addresses: Sequence[str]) -> None:
        runtime = self._restorer()
        await runtime.require_checkpoints()
        bundle = self._bundles / container_id
        if await asyncio.to_thread(_in_user_namespace, bundle):
            raise Unimplemented("SupportsCheckpoint", "containers in a user namespace of their pod's are not checkpointed")
        work = await asyncio.to_thread(archives.work_folder, path)
        try:
            write_atomically(bundle / FROZEN, str(work))
            await self._freeze_and_dump(runtime, container_id, bundle, work)
            name = (await self._runtime.probe()).name
            await asyncio.to_thread(_describe, bundle, work, status, archive.config_dump(status, name, self._clock.now()))
            archives.write_json(work, archive.NETWORK, archive.network_status(addresses))
            await asyncio.to_thread(archives.pack, work, path)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):  # the container may have been removed
                (bundle / FROZEN).write_text("") if container_id in self._paused else (bundle / FROZEN).unlink()

    async def _freeze_and_dump(
        self, runtime: SupportsCheckpointRestore, container_id: ContainerId, bundle: Path, work: Path
    ) -> None:
        frozen_before = container_id in self._paused
        images = work / archive.IMAGES
        images.mkdir(mode=0o700)
        try:
            if not frozen_before:
                self._paused.add(container_id)
                await self._pauser().pause_container(container_id)
            await runtime.dump_images(container_id, images, work)
            upper = Path(read(bundle / "upper"))
            deleted = await asyncio.to_thread(archives.write_diff, upper, work / archive.DIFF)
            archives.write_json(work, archive.DELETED, deleted)
            if container_id not in self._paused:  # files and processes would be of two moments
                raise Aborted(f"container {container_id} was resumed during its checkpoint")
        finally:
            if not frozen_before:
                self._paused.discard(container_id)
                await self._thaw(container_id)

    async def _thaw(self, container_id: ContainerId) -> None:
        try:
            if (await self._runtime.state(container_id)).status is OciStatus.PAUSED:
                await self._pauser().resume_container(container_id)
        except NotFound:
            _log.debug("container %s has ended during its checkpoint", container_id)

    async def _recover(self, container_id: ContainerId, bundle: Path) -> None:
        """Wait for the CRIU of a killed server, which continues by itself and may have seized processes; then resume."""
        work = read(bundle / FROZEN)
        if (first := processes.recorded(bundle / FIRST_PROCESS)) is not None and (tracer := processes.tracer(first.pid)):
            await processes.ended(tracer)
        try:
            await self._thaw(container_id)
        except CrishimError as error:
            _log.warning("container %s stays frozen after an interrupted checkpoint: %s", container_id, error)
            return
        _log.info("container %s is resumed after an interrupted checkpoint", container_id)
        if work.endswith(".partial"):
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
            Path(work).with_suffix(".tar").unlink(missing_ok=True)
        (bundle / FROZEN).unlink(missing_ok=True)

    def _pauser(self) -> SupportsPause:
        if not isinstance(self._runtime, SupportsPause):
            raise Unimplemented("SupportsPause")
        return self._runtime

    def _restorer(self) -> SupportsCheckpointRestore:
        if not isinstance(self._runtime, SupportsCheckpointRestore):
            raise Unimplemented("SupportsCheckpoint")
        return self._runtime


def _in_user_namespace(bundle: Path) -> bool:
    namespaces = read_config(bundle).get("linux", {}).get("namespaces", ())
    return any(namespace["type"] == "user" for namespace in namespaces)


def _describe(bundle: Path, work: Path, status: ContainerStatus, config_dump: dict[str, Any]) -> None:
    """Write the archive's files beside the dump itself: configuration, status, network."""
    config = read_config(bundle)
    archives.write_json(work, archive.CONFIG, config_dump)
    archives.write_json(work, archive.SPEC, config)
    archives.write_json(work, archive.STATUS, archive.status_dump(status))
    archives.write_json(work, archive.BINDS, archive.bind_mounts(config))
    log = read(bundle / "log-path")
    if log and Path(log).exists():
        shutil.copyfile(log, work / archive.LOG)
