"""The container verbs of CRI: CreateContainer to RemoveContainer, and the container's lists and statuses.

A stop is the stop signal, the grace period, SIGKILL and a wait. The stop signal is sent once however often the client calls;
every call has a timer of its own, so a later call with a shorter grace period shortens the stop. Only the watcher writes
exits.
"""

import asyncio
import functools
import json
import logging
from collections.abc import Sequence

import attrs

from crishim.errors import (
    AlreadyExists,
    CrishimError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from crishim.interfaces.capabilities import SupportsCheckpoint, SupportsLogReopen
from crishim.lifecycle.features import check_container
from crishim.lifecycle.filters import container_matches
from crishim.lifecycle.names import ContainerName
from crishim.lifecycle.records import ContainerRecord, Phase, unstructure
from crishim.lifecycle.resolve import resolve
from crishim.lifecycle.states import ContainerAct, SandboxAct, container_after, sandbox_after
from crishim.model.container import (
    Container,
    ContainerConfig,
    ContainerDetail,
    ContainerFilter,
    ContainerSpec,
    ContainerState,
)
from crishim.model.lifecycle import LifecyclePoint
from crishim.model.process import Exit
from crishim.model.resources import Resources
from crishim.model.runtime import ContainerEventType
from crishim.model.sandbox import PodSandboxConfig, PodSandboxState
from crishim.model.security import NamespaceMode
from crishim.model.values import EMPTY, ContainerId, FrozenDict, SandboxId, Versioned
from crishim.service.backends import BackendHandle
from crishim.service.core import Core
from crishim.service.entries import ContainerEntry, SandboxEntry, is_usable
from crishim.service.limits import ContainerLimits, require_created
from crishim.service.locks import join
from crishim.service.watcher import Watcher

_log = logging.getLogger(__name__)

KILL = 9
_START = "start"


class Containers:
    """The container verbs of CRI."""

    def __init__(self, core: Core, watcher: Watcher, limits: ContainerLimits) -> None:
        self._core = core
        self._watcher = watcher
        self._limits = limits

    async def create(
        self, sandbox_id: SandboxId, config: ContainerConfig, sandbox_config: PodSandboxConfig | None
    ) -> ContainerId:
        """Create a container; a repeated request returns the same id.

        `sandbox_config` repeats the configuration of the sandbox. Only its `privileged` is read, as in containerd and CRI-O:
        an ephemeral container may be privileged where the pod is not, and the kubelet sends that here. Raises `NotFound`
        (sandbox, image), `FailedPrecondition` (sandbox not ready), `InvalidArgument`, `AlreadyExists`.

        An image that is an absolute path is a checkpoint archive, as in containerd and CRI-O: the start then resumes it.
        """
        privileged = sandbox_config is not None and sandbox_config.linux.security_context.privileged
        image = config.image.image
        return await self._create_or_join(sandbox_id, config, image if image.startswith("/") else "", privileged=privileged)

    async def restore(self, sandbox_id: SandboxId, config: ContainerConfig, archive: str) -> ContainerId:
        """Create a container from a checkpoint archive; otherwise as `create`."""
        return await self._create_or_join(sandbox_id, config, archive)

    async def start(self, container_id: ContainerId) -> None:
        """Start a created container. Raises `NotFound`, `FailedPrecondition`. After a failed start the container is EXITED
        with reason StartError.
        """
        entry = self._core.table.container(container_id)
        start = entry.operations.under_way(_START) or entry.operations.start(
            _START,
            None,
            functools.partial(self._start, entry),
            functools.partial(self._failed_start, entry),
            tasks=self._core.tasks,
            name=f"StartContainer {container_id}",
        )
        await join(start.task)

    async def stop(self, container_id: ContainerId, timeout: int) -> None:
        """Send the stop signal, wait `timeout` seconds (none for 0 and below), send SIGKILL; return when the exit is recorded.

        A container that is unknown, was never started or has exited is no error (CRI, StopContainer).
        """
        if (entry := self._core.table.find_container(container_id)) is not None:
            await self._core.tasks.run_to_end(self._stop(entry, timeout), f"StopContainer {container_id}")

    async def remove(self, container_id: ContainerId) -> None:
        """Kill and remove a container. Unknown ids are no error (CRI, RemoveContainer). Its log file is the kubelet's."""
        if (entry := self._core.table.find_container(container_id)) is not None:
            await self._core.tasks.run_to_end(self.remove_entry(entry), f"RemoveContainer {container_id}")

    async def status(self, container_id: ContainerId, verbose: bool) -> ContainerDetail:
        """The status of a container, with verbose info on request. Raises `NotFound`, which the kubelet takes as "removed".

        A container that is being created is not found, as it is in no list.
        """
        entry = self._core.table.container(container_id)
        if entry.state is None:
            raise NotFound("container", container_id)
        return ContainerDetail(status=entry.status(), info=_info(entry) if verbose else EMPTY)

    async def list(self, filter_: ContainerFilter) -> Sequence[Versioned[Container]]:
        """The containers that match a filter, in any order."""
        listed = self._core.table.listed_containers()
        if filter_ == ContainerFilter():
            return listed
        return [entry for entry in listed if container_matches(entry.item, filter_)]

    async def update_resources(self, container_id: ContainerId, change: Resources, annotations: FrozenDict[str, str]) -> None:
        """Update limits; zero values leave a limit unchanged. If the update fails, the old limits are restored."""
        del annotations  # hints for others than the runtime; they carry no limits
        await self._limits.update(container_id, change)

    async def reopen_log(self, container_id: ContainerId) -> None:
        """Reopen the log of a running container at its path, from which the file was renamed away."""
        entry = self._core.table.container(container_id)
        container_after(entry.state, ContainerAct.REOPEN_LOG, f"container {container_id}")
        handle = self._core.handle(entry)
        backend = handle.require(SupportsLogReopen)
        await handle.call("reopen_log", backend.reopen_log(entry.id))

    async def checkpoint(self, container_id: ContainerId, location: str, timeout: int) -> None:
        """Write an archive to the absolute path `location`. `timeout` is in seconds; 0 selects the default deadline."""
        entry = self._core.table.container(container_id)
        handle = self._core.handle(entry)
        backend = handle.require(SupportsCheckpoint)
        async with entry.operations.lock:
            container_after(entry.state, ContainerAct.CHECKPOINT, f"container {container_id}")
            work = backend.checkpoint(entry.id, location, entry.status(), entry.sandbox.status().ips)
            await handle.call("checkpoint", work, float(timeout) or self._core.settings.deadlines.create_container)

    async def end(self, entry: ContainerEntry) -> None:
        """Kill a container in any state; called when its sandbox is stopped."""
        async with entry.operations.preempting():
            await self._end_locked(entry)

    async def remove_entry(self, entry: ContainerEntry) -> None:
        """Kill and remove a container; also called by undo and by recovery."""
        async with entry.operations.preempting():
            if entry.id in self._core.table.containers:
                await self._end_locked(entry)
                await self._finish_removal(entry)

    async def _create_or_join(
        self, sandbox_id: SandboxId, config: ContainerConfig, archive: str, *, privileged: bool = False
    ) -> ContainerId:
        core = self._core
        sandbox = core.table.sandbox(sandbox_id)
        _require_usable(sandbox)
        name = ContainerName.of(sandbox.id, config.metadata)
        start = sandbox.operations.under_way(name)
        if start is None:
            holder = core.table.container_names.get(name)
            if holder is not None:
                return self._created_before(core.table.container(holder), name, config)
            creation = _Creation(config, archive, privileged)
            start = sandbox.operations.start(
                name,
                creation,
                functools.partial(self._create, sandbox, creation),
                functools.partial(self._undo, creation),
                tasks=core.tasks,
                name=f"CreateContainer {config.metadata.name} in {sandbox_id}",
                alone=False,
            )
        elif start.request != _Creation(config, archive, privileged):
            raise AlreadyExists("container name", "_".join(map(str, name)))
        return ContainerId(await join(start.task))

    def _created_before(self, entry: ContainerEntry, name: ContainerName, config: ContainerConfig) -> ContainerId:
        usable = entry.state is ContainerState.CREATED and entry.record.phase is Phase.READY
        if usable and entry.record.config == config:
            return entry.id
        raise AlreadyExists("container name", "_".join(map(str, name)))

    async def _create(self, sandbox: SandboxEntry, creation: "_Creation") -> ContainerId:
        _require_usable(sandbox)  # the sandbox may have been stopped since the request arrived
        core, handle = self._core, self._core.handle(sandbox)
        archive, config, detail = await core.image_or_archive(creation.config, creation.archive, handle, sandbox.record.handler)
        mounts = await core.image_mounts(config.mounts, sandbox.record.handler)
        spec = resolve(
            attrs.evolve(config, mounts=mounts),
            detail.config,
            sandbox.record.spec,
            container_id=core.ids.container_id(),
            image_id=detail.image.id,
        )
        self._check(spec, sandbox, handle, privileged=creation.privileged)
        record = ContainerRecord(
            id=spec.id,
            sandbox_id=sandbox.id,
            config=creation.config,
            created_at=core.clock.now(),
            image=config.image.user_specified_image or next(iter(detail.image.repo_tags), config.image.image),
            image_id=detail.image.id,
            image_ref=next(iter(detail.image.repo_digests), detail.image.id),
            log_path=spec.log_path,
            mounts=() if mounts == config.mounts else mounts,
            stop_signal=spec.stop_signal,
            resources=spec.resources,
        )
        entry = creation.entry = core.table.add_container(record)
        await core.table.save_container(entry)
        spec = await self._adjusted(entry, spec, sandbox, handle, creation)
        deadline = core.settings.deadlines.create_container
        if archive:
            restoring = handle.require(SupportsCheckpoint).restore(spec, archive)
            created = await handle.call("restore", restoring, deadline)
        else:
            created = await handle.call("create_container", handle.backend.create_container(spec), deadline)
        await core.table.save_container(
            entry, attrs.evolve(entry.record, phase=Phase.READY, user=created.user if created else None)
        )
        core.table.apply(entry, ContainerAct.CREATE)
        core.events.publish(sandbox, entry.id, ContainerEventType.CREATED)
        await core.plugins.container(LifecyclePoint.POST_CREATE, entry)
        return entry.id

    async def _adjusted(
        self, entry: ContainerEntry, spec: ContainerSpec, sandbox: SandboxEntry, handle: BackendHandle, creation: "_Creation"
    ) -> ContainerSpec:
        """The spec as plugins of the node adjust it, and its limits in the record."""
        adjusted = await self._core.plugins.adjusted(entry, spec)
        if adjusted is not spec:
            self._check(adjusted, sandbox, handle, privileged=creation.privileged)
            await self._core.table.save_container(entry, attrs.evolve(entry.record, resources=adjusted.resources))
        return adjusted

    def _check(self, spec: ContainerSpec, sandbox: SandboxEntry, handle: BackendHandle, *, privileged: bool) -> None:
        check_container(spec, handle.info.supported)
        security = spec.security
        if security is None:
            return
        path = "config.linux.security_context"
        if security.privileged and not (privileged or sandbox.record.config.linux.security_context.privileged):
            raise InvalidArgument(f"{path}.privileged", "is set in a sandbox that is not privileged")
        options = security.namespace_options
        if options.pid is NamespaceMode.TARGET:
            target = self._core.table.find_container(ContainerId(options.target_id))
            if target is None or target.sandbox is not sandbox:
                raise InvalidArgument(f"{path}.namespace_options.target_id", "names no container of this sandbox")
            if target.state is not ContainerState.RUNNING:
                raise FailedPrecondition(target.shown_state.name, "RUNNING", f"target container {target.id}")

    async def _start(self, entry: ContainerEntry) -> None:
        core, handle = self._core, self._core.handle(entry)
        container_after(entry.state, ContainerAct.START, f"container {entry.id}")
        require_created(entry)
        if not is_usable(entry.sandbox):
            raise FailedPrecondition(PodSandboxState.NOTREADY.name, PodSandboxState.READY.name, f"sandbox {entry.sandbox.id}")
        entry.started_at = core.clock.now()
        await core.plugins.container(LifecyclePoint.START, entry, may_refuse=True)
        deadline = core.settings.deadlines.start_container
        await handle.call("start_container", handle.backend.start_container(entry.id), deadline)
        core.table.apply(entry, ContainerAct.START)
        core.events.publish(entry.sandbox, entry.id, ContainerEventType.STARTED)
        self._watcher.watch(entry)
        await core.plugins.container(LifecyclePoint.POST_START, entry)

    async def _failed_start(self, entry: ContainerEntry, error: BaseException) -> None:
        """Record exit code 128 with reason StartError, as containerd does for a container that never ran.

        If the backend is lost it is unknown whether the container runs: it is UNKNOWN until recovery has read the inventory.
        """
        if not entry.started_at or entry.state is not ContainerState.CREATED:
            return  # the backend was not called, or the start has succeeded
        handle = self._core.handle(entry)
        if handle.problem:
            self._core.table.apply(entry, ContainerAct.LOSE)
            return
        try:
            deadline = self._core.settings.deadlines.kill_container
            await handle.call("kill_container", handle.backend.kill_container(entry.id, KILL), deadline)
        except (DeadlineExceeded, Unavailable) as refusal:
            _log.warning("container %s may run after its failed start: %s", entry.id, refusal)
            self._core.table.apply(entry, ContainerAct.LOSE)
            self._watcher.watch(entry)
            return
        except CrishimError as refusal:
            _log.debug("container %s needed no killing after its failed start: %s", entry.id, refusal)
        entry.started_at = 0
        message = error.message if isinstance(error, CrishimError) else "the start was cancelled by a stop"
        await self._watcher.ended(entry, Exit(code=128, reason="StartError", message=message))

    async def _stop(self, entry: ContainerEntry, timeout: int) -> None:
        await entry.operations.cancel_starts()
        if not entry.may_run:
            return
        if timeout > 0:
            if not entry.stop_sent:
                entry.stop_sent = True
                try:
                    async with entry.operations.lock:
                        await self._signal(entry, entry.record.stop_signal.number)
                except BaseException:
                    entry.stop_sent = False
                    raise
            if await self.ended_within(entry, timeout):
                return
        async with entry.operations.lock:
            await self._end_locked(entry)

    async def _end_locked(self, entry: ContainerEntry) -> None:
        if not entry.may_run:
            return
        self._watcher.watch(entry)
        await self._signal(entry, KILL)
        if not await self.ended_within(entry, self._core.settings.deadlines.exit_after_kill):
            raise DeadlineExceeded(f"container {entry.id} has not ended after SIGKILL")

    async def _signal(self, entry: ContainerEntry, number: int) -> None:
        handle = self._core.handle(entry)
        try:
            deadline = self._core.settings.deadlines.kill_container
            await handle.call("kill_container", handle.backend.kill_container(entry.id, number), deadline)
        except NotFound:
            _log.debug("container %s had exited before signal %d", entry.id, number)

    async def ended_within(self, entry: ContainerEntry, seconds: float) -> bool:
        """Whether the container exits within `seconds`."""
        timer = asyncio.ensure_future(self._core.clock.sleep(seconds))
        ended = asyncio.ensure_future(entry.ended.wait())
        try:
            await asyncio.wait({timer, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            ended.cancel()
        return entry.ended.is_set()

    async def _undo(self, creation: "_Creation", _: BaseException) -> None:
        entry = creation.entry
        if entry is None or entry.state is not None:
            return
        try:
            await self._finish_removal(entry)
        except Exception:  # noqa: BLE001 - whatever it was, the client must be able to see and remove the rest
            _log.exception("container %s could not be undone; it is listed until it is removed", entry.id)
            self._core.table.apply(entry, ContainerAct.CREATE)

    async def _finish_removal(self, entry: ContainerEntry) -> None:
        core, handle = self._core, self._core.handle(entry)
        self._watcher.forget(entry)
        if entry.record.phase is Phase.READY:
            await core.table.save_container(entry, attrs.evolve(entry.record, phase=Phase.REMOVING), must=False)
        try:
            deadline = core.settings.deadlines.remove_container
            await handle.call("remove_container", handle.backend.remove_container(entry.id), deadline)
        except NotFound:
            _log.debug("container %s was not there to remove", entry.id)
        await core.plugins.container(LifecyclePoint.REMOVE, entry)
        shown = entry.state is not None
        await core.table.drop_container(entry)
        if shown:
            core.events.publish(entry.sandbox, entry.id, ContainerEventType.DELETED)


@attrs.define(eq=False)
class _Creation:
    """A CreateContainer under way: the request, and the table entry once it exists."""

    config: ContainerConfig
    archive: str
    privileged: bool = False
    entry: ContainerEntry | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Creation) and (self.config, self.archive) == (other.config, other.archive)

    def __hash__(self) -> int:
        return hash((self.config, self.archive))


def _require_usable(sandbox: SandboxEntry) -> None:
    if not is_usable(sandbox):
        sandbox_after(PodSandboxState.NOTREADY, SandboxAct.CREATE_CONTAINER, f"sandbox {sandbox.id}")


def _info(entry: ContainerEntry) -> FrozenDict[str, str]:
    record = entry.record
    info = {
        "sandboxID": record.sandbox_id,
        "phase": record.phase.value,
        "removing": record.phase is Phase.REMOVING,
        "image": record.image_id,
        "logPath": record.log_path,
        "resources": unstructure(record.resources),
        "config": unstructure(record.config),
    }
    return FrozenDict({"info": json.dumps(info)})
