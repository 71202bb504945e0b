"""Checkpoints of containers: freezing them, writing archives, and what is left of a checkpoint that was broken off.

A container is frozen while its processes and its files are read, so that both are of one moment. Before that a note is made in
its bundle; whoever finds the note after a crash lets the container go on. A dump under way is not cancelled: CRIU that is
killed in the middle may leave the container's processes in its hands, so who gives up gives up waiting.
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
"""A file of a bundle: the container is frozen for a checkpoint. It holds the work folder, if there is one."""

RESTORE: Final = "restore"
"""A file of a bundle whose container was made of an archive: its `Stdio`, in JSON."""

RESTORED: Final = "restored"
"""The folder of a bundle with what was unpacked of its archive; gone once the container runs."""


class Checkpoints:
    """Checkpoints of the containers of `runtime`, whose bundles are the folders of `bundles`."""

    def __init__(self, runtime: OciRuntime, bundles: Path, clock: Clock, roots: RootfsProvider | None) -> None:
        self._runtime = runtime
        self._bundles = bundles
        self._clock = clock
        self._roots = roots
        self._paused: set[ContainerId] = set()
        self._dumps: dict[ContainerId, asyncio.Task[None]] = {}
        self._recoveries: set[asyncio.Task[None]] = set()

    async def pause(self, container_id: ContainerId) -> None:
        """As `SupportsPause.pause_container`, with a note for the time after a crash."""
        note = self._bundles / container_id / FROZEN
        self._paused.add(container_id)
        write_atomically(note, read(note))
        await self._pauser().pause_container(container_id)

    async def resume(self, container_id: ContainerId) -> None:
        """As `SupportsPause.resume_container`. What does not run any more needs no resume."""
        try:
            await self._pauser().resume_container(container_id)
        finally:
            self._paused.discard(container_id)
            (self._bundles / container_id / FROZEN).unlink(missing_ok=True)

    async def write(self, container_id: ContainerId, path: Path, status: ContainerStatus, addresses: Sequence[str]) -> None:
        """Write an archive; the container goes on, unless `pause` has frozen it. A caller that is cancelled is not waited for.

        Raises `FailedPrecondition` while another archive of the container is being written.
        """
        if container_id in self._dumps:
            raise FailedPrecondition("being dumped", "left alone until that has ended", f"container {container_id}")
        task = asyncio.create_task(self._write(container_id, path, status, addresses), name=f"checkpoint of {container_id}")
        self._dumps[container_id] = task
        task.add_done_callback(lambda ended: self._forget(container_id, ended))
        await asyncio.shield(task)

    def recover(self) -> None:
        """Let containers go on that an earlier process of ours has frozen, and delete what that has half written."""
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
        """Make ready what `restored` needs, and the root file system as it was, which is mounted by its `prepare`.

        Raises `Unimplemented` where there is nobody to do that, and what `archives.origin` and `archives.unpack` raise.
        """
        await self._restorer().require_checkpoints()
        if pid_options(spec).pid is NamespaceMode.TARGET:
            raise Unimplemented("SupportsCheckpoint", "a container in another one's PID namespace is not restored")
        roots: object = self._roots
        if not isinstance(roots, SupportsRootfsDiff):
            raise Unimplemented("SupportsRootfsDiff", "whoever makes root file systems here makes none of a checkpoint")
        async with self._content(source) as path:
            await asyncio.to_thread(archives.origin, path)
            await asyncio.to_thread(archives.unpack, path, bundle / RESTORED)
        layer = await asyncio.to_thread(archives.layer_of, bundle / RESTORED)
        await roots.apply(spec.id, spec.image_id, layer)
        write_atomically(bundle / RESTORE, json.dumps(attrs.asdict(stdio)))

    @contextlib.asynccontextmanager
    async def _content(self, source: str) -> AsyncIterator[Path]:
        """Where an archive lies, or the content of an image that is made of one, mounted meanwhile."""
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
        """Bring the processes back of a container that was made of an archive; False for any other."""
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
            if container_id not in self._paused:  # by a caller who no longer waits: files and processes are of two moments
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
        """CRIU of a server that was killed goes on by itself: it is waited for, since a process in its hands cannot go on."""
        work = read(bundle / FROZEN)
        if (first := processes.recorded(bundle / FIRST_PROCESS)) is not None and (tracer := processes.tracer(first.pid)):
            await processes.ended(tracer)
        try:
            await self._thaw(container_id)
        except CrishimError as error:
            _log.warning("container %s stays frozen after a checkpoint that was broken off: %s", container_id, error)
            return
        _log.info("container %s goes on after a checkpoint that was broken off", container_id)
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
    """What the archive says beside the dump itself."""
    config = read_config(bundle)
    archives.write_json(work, archive.CONFIG, config_dump)
    archives.write_json(work, archive.SPEC, config)
    archives.write_json(work, archive.STATUS, archive.status_dump(status))
    archives.write_json(work, archive.BINDS, archive.bind_mounts(config))
    log = read(bundle / "log-path")
    if log and Path(log).exists():
        shutil.copyfile(log, work / archive.LOG)
