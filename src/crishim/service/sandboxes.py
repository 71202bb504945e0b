"""RunPodSandbox, StopPodSandbox, RemovePodSandbox, and what is told of sandboxes.

The record comes first: it is written before anything is made. A second request for the same name joins the first one's work,
or finds its success. Undo, removal and recovery are one and the same walk (`_tear_down`, then forget): every step of it may be
repeated, and steps for what was never made find nothing.
"""

import asyncio
import functools
import json
import logging
from collections.abc import Sequence

import attrs

from crishim.errors import AlreadyExists, NotFound
from crishim.interfaces.backend import NetnsSource
from crishim.interfaces.capabilities import SupportsSandboxUpdate
from crishim.lifecycle.features import check_sandbox
from crishim.lifecycle.filters import sandbox_matches
from crishim.lifecycle.names import SandboxName
from crishim.lifecycle.records import Phase, SandboxRecord, unstructure
from crishim.model.container import PodSandboxDetail
from crishim.model.resources import Resources
from crishim.model.runtime import ContainerEventType
from crishim.model.sandbox import PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxState, SandboxSpec
from crishim.model.values import EMPTY, FrozenDict, SandboxId, Versioned
from crishim.service.backends import Seat
from crishim.service.containers import Containers
from crishim.service.core import Core
from crishim.service.lanes import join, remember
from crishim.service.table import SandboxEntry
from crishim.service.watcher import Watcher

_log = logging.getLogger(__name__)


class Sandboxes:
    """The sandbox verbs of CRI."""

    def __init__(self, core: Core, watcher: Watcher, containers: Containers) -> None:
        self._core = core
        self._watcher = watcher
        self._containers = containers
        self._runs: dict[SandboxName, asyncio.Task[SandboxId]] = {}

    async def run(self, config: PodSandboxConfig, handler: str) -> SandboxId:
        """Make a sandbox and answer its id once it is ready; the same request again answers the same id.

        Raises `InvalidArgument` for an unknown handler or a field that the backend does not support, `AlreadyExists` when the
        name belongs to a sandbox that was asked for differently or is no longer ready.
        """
        core = self._core
        seat = core.backends.get(handler)
        name = SandboxName.of(config.metadata)
        holder = core.table.sandbox_names.get(name)
        if holder is not None:
            return await self._join(core.table.sandbox(holder), name, config, handler)
        record = SandboxRecord(
            id=core.ids.sandbox_id(),
            config=config,
            handler=handler,
            boot_id=core.settings.boot_id,
            created_at=core.clock.now(),
        )
        check_sandbox(record.spec, seat.info.supported)
        entry = core.table.add_sandbox(record)
        task = core.tasks.spawn(entry.lane.start(functools.partial(self._run, entry, seat)), f"RunPodSandbox {record.id}")
        remember(self._runs, name, task)
        return await join(task)

    async def stop(self, sandbox_id: SandboxId) -> None:
        """Kill what runs in the sandbox, free its network. Unknown ids and repetitions are no error (CRI, StopPodSandbox)."""
        if (entry := self._core.table.sandboxes.get(sandbox_id)) is not None:
            await self._core.tasks.shielded(self._stop(entry), f"StopPodSandbox {sandbox_id}")

    async def remove(self, sandbox_id: SandboxId) -> None:
        """Stop the sandbox, and remove it with its containers. Unknown ids are no error (CRI, RemovePodSandbox)."""
        if (entry := self._core.table.sandboxes.get(sandbox_id)) is not None:
            await self._core.tasks.shielded(self._remove(entry), f"RemovePodSandbox {sandbox_id}")

    async def status(self, sandbox_id: SandboxId, verbose: bool) -> PodSandboxDetail:
        """What is known of a sandbox, and of its containers. Raises `NotFound`."""
        entry = self._core.table.sandbox(sandbox_id)
        return PodSandboxDetail(
            status=entry.status(),
            info=_info(entry) if verbose else EMPTY,
            containers_statuses=entry.container_statuses(),
            timestamp=self._core.clock.now(),
        )

    async def list(self, wanted: PodSandboxFilter) -> Sequence[Versioned[PodSandbox]]:
        """The sandboxes that a filter lets through, in any order."""
        listed = self._core.table.listed_sandboxes()
        if wanted == PodSandboxFilter():
            return listed
        return [entry for entry in listed if sandbox_matches(entry.item, wanted)]

    async def update_resources(self, sandbox_id: SandboxId, overhead: Resources | None, resources: Resources | None) -> None:
        """Take note of the pod's new sums. Raises `NotFound`, or `Unimplemented`."""
        entry = self._core.table.sandbox(sandbox_id)
        await self._core.tasks.shielded(self._update(entry, overhead, resources), f"UpdatePodSandboxResources {sandbox_id}")

    async def stop_again(self, entry: SandboxEntry) -> None:
        """For recovery: carry out a stop that was asked for in an earlier life."""
        async with entry.lane.stop():
            await self._stop_in_turn(entry)

    async def remove_again(self, entry: SandboxEntry) -> None:
        """For recovery: finish what was being made or removed."""
        async with entry.lane.stop():
            await self._finish_removal(entry)

    async def forget_network(self, entry: SandboxEntry) -> None:
        """For recovery: the machine has booted anew; free the addresses of a namespace that is gone."""
        network = self._core.network
        if network is not None and not entry.record.spec.host_network:
            spec = attrs.evolve(entry.record.spec, netns="")
            await self._core.network_step("network", network.tear_down(spec))
        await self._core.table.save_sandbox(entry, netns="", ips=())

    async def _join(self, entry: SandboxEntry, name: SandboxName, config: PodSandboxConfig, handler: str) -> SandboxId:
        same = entry.record.config == config and entry.record.handler == handler
        task = self._runs.get(name)
        if same and task is not None:
            return await join(task)
        if same and entry.record.phase is Phase.READY and entry.state is PodSandboxState.READY:
            return entry.id
        raise AlreadyExists("sandbox name", "_".join(map(str, name)))

    async def _run(self, entry: SandboxEntry, seat: Seat) -> SandboxId:
        try:
            await self._core.table.save_sandbox(entry)
            spec = await self._start(entry, seat)
            await self._core.table.save_sandbox(entry, phase=Phase.READY, netns=spec.netns, ips=spec.ips)
        except BaseException:
            await self._undo(entry)
            raise
        self._core.table.show_sandbox(entry, PodSandboxState.READY)
        self._core.events.publish(entry, entry.id, ContainerEventType.CREATED)
        self._core.events.publish(entry, entry.id, ContainerEventType.STARTED)
        self._watcher.watch_sandbox(entry)
        return entry.id

    async def _start(self, entry: SandboxEntry, seat: Seat) -> SandboxSpec:
        """Network before the backend, or after it: the field really has two orders."""
        core, spec = self._core, entry.record.spec
        deadline = core.settings.deadlines.start_sandbox
        own_netns = seat.info.netns is NetnsSource.LIBRARY
        if own_netns:
            if core.namespaces is not None:
                spec = attrs.evolve(spec, netns=await core.network_step("namespaces", core.namespaces.create(spec)))
            spec = await self._connect(spec)
        started = await seat.call("start_sandbox", seat.backend.start_sandbox(spec), deadline)
        if started.ips:
            spec = attrs.evolve(spec, ips=started.ips)
        if not own_netns and started.netns:
            spec = attrs.evolve(spec, netns=started.netns)
            spec = await self._connect(spec)
        return spec

    async def _connect(self, spec: SandboxSpec) -> SandboxSpec:
        network = self._core.network
        if network is None or spec.host_network or not spec.netns:
            return spec
        return attrs.evolve(spec, ips=await self._core.network_step("network", network.set_up(spec)))

    async def _undo(self, entry: SandboxEntry) -> None:
        try:
            await self._finish_removal(entry)
        except Exception:  # noqa: BLE001 - whatever it was, the client must be able to see and remove the rest
            _log.exception("sandbox %s could not be undone; it is listed until it is removed", entry.id)
            self._core.table.show_sandbox(entry, PodSandboxState.NOTREADY)

    async def _update(self, entry: SandboxEntry, overhead: Resources | None, resources: Resources | None) -> None:
        seat = self._core.seat(entry)
        backend = seat.require(SupportsSandboxUpdate)
        async with entry.lane.turn:
            await seat.call("update_sandbox", backend.update_sandbox(entry.id, overhead, resources))
            await self._core.table.save_sandbox(entry, overhead=overhead, resources=resources)

    async def _stop(self, entry: SandboxEntry) -> None:
        if entry.record.phase is Phase.READY:
            await self._core.table.save_sandbox(entry, must=False, phase=Phase.STOPPED)
        async with entry.lane.stop():
            if entry.id in self._core.table.sandboxes:
                await self._stop_in_turn(entry)

    async def _remove(self, entry: SandboxEntry) -> None:
        await self._stop(entry)
        async with entry.lane.stop():
            if entry.id in self._core.table.sandboxes:
                await self._finish_removal(entry)

    async def _stop_in_turn(self, entry: SandboxEntry) -> None:
        if entry.stop_done:
            return
        await asyncio.gather(*(self._containers.end(container) for container in tuple(entry.containers.values())))
        self._watcher.forget(entry)
        await self._tear_down(entry)
        was_ready = entry.state is PodSandboxState.READY
        self._core.table.show_sandbox(entry, PodSandboxState.NOTREADY)
        await self._core.table.save_sandbox(entry, must=False, netns="", ips=())
        entry.stop_done = True
        if was_ready:
            self._core.events.publish(entry, entry.id, ContainerEventType.STOPPED)

    async def _tear_down(self, entry: SandboxEntry) -> None:
        """The way back: a namespace that the backend made must be disconnected while the backend still holds it."""
        core, spec, seat = self._core, entry.record.spec, self._core.seat(entry)
        info = seat.known_info
        backend_first = info is None or info.netns is not NetnsSource.BACKEND
        if backend_first:
            await self._stop_backend(entry, seat)
        if core.network is not None and not spec.host_network and (info is None or info.netns is not NetnsSource.NONE):
            await core.network_step("network", core.network.tear_down(spec))
        if core.namespaces is not None and backend_first:
            await core.network_step("namespaces", core.namespaces.remove(entry.id))
        if not backend_first:
            await self._stop_backend(entry, seat)

    async def _stop_backend(self, entry: SandboxEntry, seat: Seat) -> None:
        try:
            await seat.call("stop_sandbox", seat.backend.stop_sandbox(entry.id), self._core.settings.deadlines.stop_sandbox)
        except NotFound:
            _log.debug("sandbox %s was not there to stop", entry.id)

    async def _finish_removal(self, entry: SandboxEntry) -> None:
        core, seat = self._core, self._core.seat(entry)
        for container in tuple(entry.containers.values()):
            await self._containers.remove_entry(container)
        self._watcher.forget(entry)
        if entry.record.phase is not Phase.REMOVING and entry.record.phase is not Phase.CREATING:
            await core.table.save_sandbox(entry, must=False, phase=Phase.REMOVING)
        if not entry.stop_done:
            await self._tear_down(entry)
        try:
            deadline = core.settings.deadlines.remove_sandbox
            await seat.call("remove_sandbox", seat.backend.remove_sandbox(entry.id), deadline)
        except NotFound:
            _log.debug("sandbox %s was not there to remove", entry.id)
        shown = entry.state is not None
        await core.table.drop_sandbox(entry)
        if shown:
            core.events.publish(entry, entry.id, ContainerEventType.DELETED)


def _info(entry: SandboxEntry) -> FrozenDict[str, str]:
    record = entry.record
    told = {
        "sandboxID": record.id,
        "runtimeHandler": record.handler,
        "phase": record.phase.value,
        "netns": record.netns,
        "ips": list(record.ips),
        "overhead": unstructure(record.overhead) if record.overhead else None,
        "resources": unstructure(record.resources) if record.resources else None,
        "config": unstructure(record.config),
    }
    return FrozenDict({"info": json.dumps(told)})
