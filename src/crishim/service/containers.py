"""CreateContainer to RemoveContainer, and what is told of containers.

A stop is a signal, a grace, SIGKILL and a wait, written once, here. The stop signal is sent once however often the client asks;
every call keeps its own timer, so a later, shorter grace shortens the whole. Exits are never written here but by the watcher.
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
    PullError,
    PullReason,
    Unavailable,
)
from crishim.interfaces.capabilities import SupportsCheckpoint, SupportsLogReopen, SupportsUpdate
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
    Mount,
)
from crishim.model.image import Image, ImageDetail
from crishim.model.process import Exit
from crishim.model.resources import Resources
from crishim.model.runtime import ContainerEventType
from crishim.model.sandbox import PodSandboxConfig, PodSandboxState
from crishim.model.security import NamespaceMode
from crishim.model.values import EMPTY, ContainerId, FrozenDict, ImageId, SandboxId, Versioned
from crishim.service.backends import Seat
from crishim.service.core import Core
from crishim.service.lanes import join, remember
from crishim.service.table import ContainerEntry, SandboxEntry, is_usable
from crishim.service.watcher import Watcher

_log = logging.getLogger(__name__)

KILL = 9


class Containers:
    """The container verbs of CRI."""

    def __init__(self, core: Core, watcher: Watcher) -> None:
        self._core = core
        self._watcher = watcher
        self._creates: dict[ContainerName, asyncio.Task[ContainerId]] = {}
        self._wishes: dict[tuple[ContainerName, ContainerConfig], asyncio.Task[ContainerId]] = {}
        self._starts: dict[ContainerId, asyncio.Task[None]] = {}

    async def create(
        self, sandbox_id: SandboxId, config: ContainerConfig, sandbox_config: PodSandboxConfig | None
    ) -> ContainerId:
        """Make a container that is ready to start; the same request again answers the same id.

        `sandbox_config` repeats what the sandbox was made with, and is not looked at. Raises `NotFound` (sandbox, image),
        `FailedPrecondition` (sandbox not ready), `InvalidArgument`, `AlreadyExists`.
        """
        del sandbox_config
        return await self._made(sandbox_id, config, "")

    async def restore(self, sandbox_id: SandboxId, config: ContainerConfig, archive: str) -> ContainerId:
        """As `create`, from a checkpoint archive."""
        return await self._made(sandbox_id, config, archive)

    async def start(self, container_id: ContainerId) -> None:
        """Run a created container. Raises `NotFound`, `FailedPrecondition`; a failed start leaves it EXITED, StartError."""
        entry = self._core.table.container(container_id)
        task = self._starts.get(container_id)
        if task is None:
            work = entry.lane.start(functools.partial(self._start, entry))
            task = self._core.tasks.spawn(work, f"StartContainer {container_id}")
            remember(self._starts, container_id, task)
        await join(task)

    async def stop(self, container_id: ContainerId, timeout: int) -> None:
        """Stop signal, `timeout` seconds of grace (none from 0 down), SIGKILL; returns when the exit was seen.

        What is unknown, was never started or has ended is no error (CRI, StopContainer).
        """
        if (entry := self._core.table.containers.get(container_id)) is not None:
            await self._core.tasks.shielded(self._stop(entry, timeout), f"StopContainer {container_id}")

    async def remove(self, container_id: ContainerId) -> None:
        """Kill and remove. Unknown ids are no error (CRI, RemoveContainer); the log file stays, it is the kubelet's."""
        if (entry := self._core.table.containers.get(container_id)) is not None:
            await self._core.tasks.shielded(self.remove_entry(entry), f"RemoveContainer {container_id}")

    async def status(self, container_id: ContainerId, verbose: bool) -> ContainerDetail:
        """What is known of a container. Raises `NotFound`, which the kubelet takes for "gone"."""
        entry = self._core.table.container(container_id)
        return ContainerDetail(status=entry.status(), info=_info(entry) if verbose else EMPTY)

    async def list(self, wanted: ContainerFilter) -> Sequence[Versioned[Container]]:
        """The containers that a filter lets through, in any order."""
        listed = self._core.table.listed_containers()
        if wanted == ContainerFilter():
            return listed
        return [entry for entry in listed if container_matches(entry.item, wanted)]

    async def update_resources(self, container_id: ContainerId, change: Resources, annotations: FrozenDict[str, str]) -> None:
        """Change limits: zero values leave theirs as they are. A failed change changes nothing."""
        del annotations  # hints for runtimes with plug-ins of their own; none of the limits
        entry = self._core.table.container(container_id)
        await self._core.tasks.shielded(self._update(entry, change), f"UpdateContainerResources {container_id}")

    async def reopen_log(self, container_id: ContainerId) -> None:
        """The log file was renamed: make the container write to a new one. Only for running containers."""
        entry = self._core.table.container(container_id)
        container_after(entry.shown_state, ContainerAct.REOPEN_LOG, f"container {container_id}")
        seat = self._core.seat(entry)
        backend = seat.require(SupportsLogReopen)
        await seat.call("reopen_log", backend.reopen_log(container_id))

    async def checkpoint(self, container_id: ContainerId, location: str, timeout: int) -> None:
        """Write a checkpoint archive to the absolute path `location`; the container goes on. `timeout` 0 is the usual one."""
        entry = self._core.table.container(container_id)
        seat = self._core.seat(entry)
        backend = seat.require(SupportsCheckpoint)
        async with entry.lane.turn:
            container_after(entry.shown_state, ContainerAct.CHECKPOINT, f"container {container_id}")
            await seat.call("checkpoint", backend.checkpoint(container_id, location), float(timeout) or None)

    async def end(self, entry: ContainerEntry) -> None:
        """Kill what runs of a container, whatever it is doing; for the stop of its sandbox."""
        async with entry.lane.stop():
            await self._end_in_turn(entry)

    async def remove_entry(self, entry: ContainerEntry) -> None:
        """Kill and remove; also the end of every undo and recovery."""
        async with entry.lane.stop():
            if entry.id in self._core.table.containers:
                await self._end_in_turn(entry)
                await self._finish_removal(entry)

    async def _made(self, sandbox_id: SandboxId, config: ContainerConfig, archive: str) -> ContainerId:
        core = self._core
        sandbox = core.table.sandbox(sandbox_id)
        _require_usable(sandbox)
        name = ContainerName.of(sandbox_id, config.metadata)
        making = self._creates.get(name)
        if making is None:
            holder = core.table.container_names.get(name)
            if holder is not None:
                return self._made_before(core.table.container(holder), name, config)
            work = sandbox.lane.start(functools.partial(self._create, sandbox, config, archive), alone=False)
            making = core.tasks.spawn(work, f"CreateContainer {config.metadata.name} in {sandbox_id}")
            remember(self._creates, name, making)
            remember(self._wishes, (name, config), making)
        elif (name, config) not in self._wishes:
            raise AlreadyExists("container name", "_".join(map(str, name)))
        return await join(making)

    def _made_before(self, entry: ContainerEntry, name: ContainerName, config: ContainerConfig) -> ContainerId:
        if entry.record.config == config and entry.state is ContainerState.CREATED:
            return entry.id
        raise AlreadyExists("container name", "_".join(map(str, name)))

    async def _create(self, sandbox: SandboxEntry, config: ContainerConfig, archive: str) -> ContainerId:
        _require_usable(sandbox)  # a stop may have come between the request and this task
        core, seat = self._core, self._core.seat(sandbox)
        detail = await self._image(config, sandbox.record.handler)
        mounts = await self._image_mounts(config.mounts, sandbox.record.handler)
        spec = resolve(
            attrs.evolve(config, mounts=mounts),
            detail.config,
            sandbox.record.spec,
            container_id=core.ids.container_id(),
            image_id=detail.image.id,
        )
        self._check(spec, sandbox, seat)
        record = ContainerRecord(
            id=spec.id,
            sandbox_id=sandbox.id,
            config=config,
            created_at=core.clock.now(),
            image=config.image.user_specified_image or next(iter(detail.image.repo_tags), config.image.image),
            image_id=detail.image.id,
            image_ref=next(iter(detail.image.repo_digests), detail.image.id),
            log_path=spec.log_path,
            mounts=() if mounts == config.mounts else mounts,
            stop_signal=spec.stop_signal,
            resources=spec.resources,
        )
        entry = core.table.add_container(record)
        try:
            await core.table.save_container(entry)
            deadline = core.settings.deadlines.create_container
            if archive:
                await seat.call("restore", seat.require(SupportsCheckpoint).restore(spec, archive), deadline)
                created = None
            else:
                created = await seat.call("create_container", seat.backend.create_container(spec), deadline)
            await core.table.save_container(entry, phase=Phase.READY, user=created.user if created else None)
        except BaseException:
            await self._undo(entry)
            raise
        core.table.show_container(entry, ContainerState.CREATED)
        core.events.publish(sandbox, entry.id, ContainerEventType.CREATED)
        return entry.id

    async def _image(self, config: ContainerConfig, handler: str) -> ImageDetail:
        if not config.image.image:
            raise InvalidArgument("config.image.image", "is empty")
        images = self._core.image_service(handler)
        if images is None:
            return ImageDetail(image=Image(id=ImageId(config.image.image), size=1))
        detail = await self._core.image_step("image status", images.status(config.image))
        if detail is None:
            raise NotFound("image", config.image.image)
        return detail

    async def _image_mounts(self, mounts: tuple[Mount, ...], handler: str) -> tuple[Mount, ...]:
        """The mounts with the id of each image volume's image. It must be here already (CRI, Mount.image)."""
        found = []
        for mount in mounts:
            image = mount.image
            if image is None or not image.image:
                found.append(mount)
                continue
            images = self._core.image_service(handler)
            detail = None if images is None else await self._core.image_step("image status", images.status(image))
            if detail is None:
                raise PullError(PullReason.IMAGE_VOLUME_MOUNT_FAILED, f"image {image.image!r} is not here")
            found.append(attrs.evolve(mount, image=attrs.evolve(image, image_ref=detail.image.id)))
        return tuple(found)

    def _check(self, spec: ContainerSpec, sandbox: SandboxEntry, seat: Seat) -> None:
        check_container(spec, seat.info.supported)
        security = spec.security
        if security is None:
            return
        path = "config.linux.security_context"
        if security.privileged and not sandbox.record.config.linux.security_context.privileged:
            raise InvalidArgument(f"{path}.privileged", "is set in a sandbox that is not privileged")
        options = security.namespace_options
        if options.pid is NamespaceMode.TARGET:
            target = self._core.table.containers.get(ContainerId(options.target_id))
            if target is None or target.sandbox is not sandbox:
                raise InvalidArgument(f"{path}.namespace_options.target_id", "names no container of this sandbox")
            if target.state is not ContainerState.RUNNING:
                raise FailedPrecondition(target.shown_state.name, "RUNNING", f"target container {target.id}")

    async def _start(self, entry: ContainerEntry) -> None:
        core, seat = self._core, self._core.seat(entry)
        container_after(entry.shown_state, ContainerAct.START, f"container {entry.id}")
        _require_made(entry)
        if not is_usable(entry.sandbox):
            raise FailedPrecondition(PodSandboxState.NOTREADY.name, PodSandboxState.READY.name, f"sandbox {entry.sandbox.id}")
        entry.started_at = core.clock.now()
        try:
            deadline = core.settings.deadlines.start_container
            await seat.call("start_container", seat.backend.start_container(entry.id), deadline)
        except Unavailable:
            core.table.apply(entry, ContainerAct.LOSE)
            raise
        except BaseException as error:
            entry.started_at = 0
            await self._failed_start(entry, seat, error)
            raise
        core.table.apply(entry, ContainerAct.START)
        core.events.publish(entry.sandbox, entry.id, ContainerEventType.STARTED)
        self._watcher.watch(entry)

    async def _failed_start(self, entry: ContainerEntry, seat: Seat, error: BaseException) -> None:
        """Code 128, reason StartError: how the field tells of a container that never ran."""
        try:
            await seat.call("kill_container", seat.backend.kill_container(entry.id, KILL))
        except CrishimError as refusal:
            _log.debug("container %s needed no killing after its failed start: %s", entry.id, refusal)
        message = error.message if isinstance(error, CrishimError) else "the start was overtaken by a stop"
        await self._watcher.ended(entry, Exit(code=128, reason="StartError", message=message))

    async def _update(self, entry: ContainerEntry, change: Resources) -> None:
        async with entry.lane.turn:
            _require_made(entry)
            container_after(entry.shown_state, ContainerAct.UPDATE, f"container {entry.id}")
            seat = self._core.seat(entry)
            backend = seat.require(SupportsUpdate)
            resources = entry.record.resources.updated(change)
            if entry.state is not ContainerState.EXITED:
                await seat.call("update_container", backend.update_container(entry.id, resources))
            await self._core.table.save_container(entry, resources=resources)

    async def _stop(self, entry: ContainerEntry, timeout: int) -> None:
        await entry.lane.overtake()
        if not entry.may_run:
            return
        if timeout > 0:
            if not entry.stop_sent:
                entry.stop_sent = True
                try:
                    async with entry.lane.turn:
                        await self._signal(entry, entry.record.stop_signal.number)
                except BaseException:
                    entry.stop_sent = False
                    raise
            if await self._ended_within(entry, timeout):
                return
        async with entry.lane.turn:
            await self._end_in_turn(entry)

    async def _end_in_turn(self, entry: ContainerEntry) -> None:
        if not entry.may_run:
            return
        self._watcher.watch(entry)
        await self._signal(entry, KILL)
        if not await self._ended_within(entry, self._core.settings.deadlines.exit_after_kill):
            raise DeadlineExceeded(f"container {entry.id} has not ended after SIGKILL")

    async def _signal(self, entry: ContainerEntry, number: int) -> None:
        seat = self._core.seat(entry)
        try:
            deadline = self._core.settings.deadlines.kill_container
            await seat.call("kill_container", seat.backend.kill_container(entry.id, number), deadline)
        except NotFound:
            _log.debug("container %s was gone before signal %d", entry.id, number)

    async def _ended_within(self, entry: ContainerEntry, seconds: float) -> bool:
        timer = asyncio.ensure_future(self._core.clock.sleep(seconds))
        ended = asyncio.ensure_future(entry.ended.wait())
        try:
            await asyncio.wait({timer, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            ended.cancel()
        return entry.ended.is_set()

    async def _undo(self, entry: ContainerEntry) -> None:
        try:
            await self._finish_removal(entry)
        except Exception:  # noqa: BLE001 - whatever it was, the client must be able to see and remove the rest
            _log.exception("container %s could not be undone; it is listed until it is removed", entry.id)
            self._core.table.show_container(entry, ContainerState.CREATED)

    async def _finish_removal(self, entry: ContainerEntry) -> None:
        core, seat = self._core, self._core.seat(entry)
        self._watcher.forget(entry)
        if entry.record.phase is Phase.READY:
            await core.table.save_container(entry, must=False, phase=Phase.REMOVING)
        try:
            deadline = core.settings.deadlines.remove_container
            await seat.call("remove_container", seat.backend.remove_container(entry.id), deadline)
        except NotFound:
            _log.debug("container %s was not there to remove", entry.id)
        shown = entry.state is not None
        await core.table.drop_container(entry)
        if shown:
            core.events.publish(entry.sandbox, entry.id, ContainerEventType.DELETED)


def _require_usable(sandbox: SandboxEntry) -> None:
    if not is_usable(sandbox):
        sandbox_after(PodSandboxState.NOTREADY, SandboxAct.CREATE_CONTAINER, f"sandbox {sandbox.id}")


def _require_made(entry: ContainerEntry) -> None:
    """Not one that is being removed, or has been removed while the caller waited for its turn."""
    if entry.record.phase is not Phase.READY:
        raise FailedPrecondition(entry.record.phase.value, Phase.READY.value, f"container {entry.id}")


def _info(entry: ContainerEntry) -> FrozenDict[str, str]:
    record = entry.record
    told = {
        "sandboxID": record.sandbox_id,
        "phase": record.phase.value,
        "removing": record.phase is Phase.REMOVING,
        "image": record.image_id,
        "logPath": record.log_path,
        "resources": unstructure(record.resources),
        "config": unstructure(record.config),
    }
    return FrozenDict({"info": json.dumps(told)})
