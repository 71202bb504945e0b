"""The sandbox verbs of CRI: RunPodSandbox, StopPodSandbox, RemovePodSandbox, and the sandbox's lists and statuses.

The record is written before anything is created. A second request for the same name joins the first, or returns its result.
Undo, removal and recovery run the same steps (`_tear_down`, then forget): every step can be repeated, and does nothing where
nothing was created.
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
from crishim.lifecycle.states import SandboxAct
from crishim.model.container import PodSandboxDetail
from crishim.model.lifecycle import LifecyclePoint
from crishim.model.resources import Resources
from crishim.model.runtime import ContainerEventType
from crishim.model.sandbox import PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxState, SandboxSpec
from crishim.model.values import EMPTY, FrozenDict, SandboxId, Versioned
from crishim.service.backends import BackendHandle
from crishim.service.containers import Containers
from crishim.service.core import Core
from crishim.service.entries import SandboxEntry, is_usable
from crishim.service.locks import join
from crishim.service.watcher import Watcher

_log = logging.getLogger(__name__)

_RUN = "run"


class Sandboxes:
    """The sandbox verbs of CRI."""

    def __init__(self, core: Core, watcher: Watcher, containers: Containers) -> None:
        self._core = core
        self._watcher = watcher
        self._containers = containers

    async def run(self, config: PodSandboxConfig, handler: str) -> SandboxId:
        """Start a sandbox and return its id once it is ready; a repeated request returns the same id.

        Raises `InvalidArgument` for an unknown handler or a field that the backend does not support, `AlreadyExists` when the
        name belongs to a sandbox that was requested with another configuration or is not ready any more.
        """
        core = self._core
        handle = core.backends.get(handler)
        name = SandboxName.of(config.metadata)
        holder = core.table.sandbox_names.get(name)
        if holder is not None:
            return await self._join(core.table.sandbox(holder), (config, handler))
        record = SandboxRecord(
            id=core.ids.sandbox_id(),
            config=config,
            handler=handler,
            boot_id=core.settings.boot_id,
            backend=handle.info.name,
            created_at=core.clock.now(),
        )
        check_sandbox(record.spec, handle.info.supported)
        entry = core.table.add_sandbox(record)
        start = entry.operations.start(
            _RUN,
            (config, handler),
            functools.partial(self._run, entry, handle),
            functools.partial(self._undo, entry),
            tasks=core.tasks,
            name=f"RunPodSandbox {record.id}",
        )
        return SandboxId(await join(start.task))

    async def stop(self, sandbox_id: SandboxId) -> None:
        """Kill the containers of the sandbox and free its network. Unknown ids and repetitions are no error (CRI,
        StopPodSandbox).
        """
        if (entry := self._core.table.find_sandbox(sandbox_id)) is not None:
            await self._core.tasks.run_to_end(self._stop(entry), f"StopPodSandbox {sandbox_id}")

    async def remove(self, sandbox_id: SandboxId) -> None:
        """Stop the sandbox, and remove it with its containers. Unknown ids are no error (CRI, RemovePodSandbox)."""
        if (entry := self._core.table.find_sandbox(sandbox_id)) is not None:
            await self._core.tasks.run_to_end(self._remove(entry), f"RemovePodSandbox {sandbox_id}")

    async def status(self, sandbox_id: SandboxId, verbose: bool) -> PodSandboxDetail:
        """The status of a sandbox and of its containers, with verbose info on request. Raises `NotFound`."""
        entry = self._core.table.sandbox(sandbox_id)
        return PodSandboxDetail(
            status=entry.status(),
            info=_info(entry) if verbose else EMPTY,
            containers_statuses=entry.container_statuses(),
            timestamp=self._core.clock.now(),
        )

    async def list(self, filter_: PodSandboxFilter) -> Sequence[Versioned[PodSandbox]]:
        """The sandboxes that match a filter, in any order."""
        listed = self._core.table.listed_sandboxes()
        if filter_ == PodSandboxFilter():
            return listed
        return [entry for entry in listed if sandbox_matches(entry.item, filter_)]

    async def update_resources(self, sandbox_id: SandboxId, overhead: Resources | None, resources: Resources | None) -> None:
        """Record the pod's new sums of resources and pass them to the backend. Raises `NotFound`, `Unimplemented`."""
        entry = self._core.table.sandbox(sandbox_id)
        await self._core.tasks.run_to_end(self._update(entry, overhead, resources), f"UpdatePodSandboxResources {sandbox_id}")

    async def stop_again(self, entry: SandboxEntry) -> None:
        """For recovery: repeat a stop that was requested before the restart."""
        async with entry.operations.preempting():
            await self._stop_locked(entry)

    async def remove_again(self, entry: SandboxEntry) -> None:
        """For recovery: finish an interrupted creation or removal."""
        async with entry.operations.preempting():
            await self._finish_removal(entry)

    async def forget_network(self, entry: SandboxEntry) -> None:
        """For recovery after a reboot: free the addresses of a network namespace that no longer exists."""
        network = self._core.network
        if network is not None and not entry.record.spec.host_network:
            spec = attrs.evolve(entry.record.spec, netns="")
            await self._core.network_step("network", network.tear_down(spec))
        await self._core.table.save_sandbox(entry, attrs.evolve(entry.record, netns="", ips=()))

    async def _join(self, entry: SandboxEntry, request: tuple[PodSandboxConfig, str]) -> SandboxId:
        if (entry.record.config, entry.record.handler) == request:
            if (start := entry.operations.under_way(_RUN)) is not None:
                return SandboxId(await join(start.task))
            if is_usable(entry):
                return entry.id
        raise AlreadyExists("sandbox name", "_".join(map(str, SandboxName.of(entry.record.config.metadata))))

    async def _run(self, entry: SandboxEntry, handle: BackendHandle) -> SandboxId:
        table = self._core.table
        await table.save_sandbox(entry)
        spec = await self._start(entry, handle)
        await table.save_sandbox(entry, attrs.evolve(entry.record, phase=Phase.READY, netns=spec.netns, ips=spec.ips))
        await self._core.plugins.pod(LifecyclePoint.RUN_POD, entry, may_refuse=True)
        table.apply(entry, SandboxAct.RUN)
        self._core.events.publish(entry, entry.id, ContainerEventType.CREATED)
        self._core.events.publish(entry, entry.id, ContainerEventType.STARTED)
        self._watcher.watch_sandbox(entry)
        return entry.id

    async def _start(self, entry: SandboxEntry, handle: BackendHandle) -> SandboxSpec:
        """Start the network before the backend, or after it where the backend makes the namespace (`NetnsSource`)."""
        core, spec = self._core, entry.record.spec
        deadline = core.settings.deadlines.start_sandbox
        own_netns = handle.info.netns is NetnsSource.LIBRARY
        if own_netns:
            if core.namespaces is not None:
                spec = attrs.evolve(spec, netns=await core.network_step("namespaces", core.namespaces.create(spec)))
            spec = await self._connect(spec)
            if core.namespaces is not None:
                await core.network_step("namespaces", core.namespaces.connected(spec))
        started = await handle.call("start_sandbox", handle.backend.start_sandbox(spec), deadline)
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

    async def _undo(self, entry: SandboxEntry, _: BaseException) -> None:
        if entry.state is not None:
            return
        try:
            await self._finish_removal(entry)
        except Exception:  # noqa: BLE001 - whatever it was, the client must be able to see and remove the rest
            _log.exception("sandbox %s could not be undone; it is listed until it is removed", entry.id)
            self._core.table.apply(entry, SandboxAct.FAIL)

    async def _update(self, entry: SandboxEntry, overhead: Resources | None, resources: Resources | None) -> None:
        handle = self._core.handle(entry)
        backend = handle.require(SupportsSandboxUpdate)
        await self._core.plugins.updating_pod(entry, overhead, resources)
        async with entry.operations.lock:
            await handle.call("update_sandbox", backend.update_sandbox(entry.id, overhead, resources))
            await self._core.table.save_sandbox(entry, attrs.evolve(entry.record, overhead=overhead, resources=resources))
        await self._core.plugins.pod(LifecyclePoint.POST_UPDATE_POD, entry)

    async def _stop(self, entry: SandboxEntry) -> None:
        self._core.handle(entry)  # refuses a sandbox of another backend before anything is written
        if entry.record.phase is Phase.READY:
            await self._core.table.save_sandbox(entry, attrs.evolve(entry.record, phase=Phase.STOPPED), must=False)
        async with entry.operations.preempting():
            if entry.id in self._core.table.sandboxes:
                await self._stop_locked(entry)

    async def _remove(self, entry: SandboxEntry) -> None:
        await self._stop(entry)
        async with entry.operations.preempting():
            if entry.id in self._core.table.sandboxes:
                await self._finish_removal(entry)

    async def _stop_locked(self, entry: SandboxEntry) -> None:
        if entry.stop_done:
            return
        await self._end_containers(entry)
        await self._report_stop(entry)
        self._watcher.forget(entry)
        if entry.state is not None:  # not ready from here on, even if a later step fails
            was_ready = entry.state is PodSandboxState.READY
            self._core.table.apply(entry, SandboxAct.STOP)
            if was_ready:
                self._core.events.publish(entry, entry.id, ContainerEventType.STOPPED)
        await self._tear_down(entry)
        await self._core.table.save_sandbox(entry, attrs.evolve(entry.record, netns="", ips=()), must=False)
        entry.stop_done = True

    async def _report_stop(self, entry: SandboxEntry) -> None:
        """Notify plugins of a stop, once, after the ends of the containers."""
        if entry.stop_reported:
            return
        for container in tuple(entry.containers.values()):
            if container.stop_report is not None:
                await container.stop_report
        await self._core.plugins.pod(LifecyclePoint.STOP_POD, entry)
        entry.stop_reported = True

    async def _end_containers(self, entry: SandboxEntry) -> None:
        """Kill every container. A container that cannot be killed may still end with its sandbox, as in a hung virtual
        machine.
        """
        containers = tuple(entry.containers.values())
        ends = (self._containers.end(container) for container in containers)
        failures = [outcome for outcome in await asyncio.gather(*ends, return_exceptions=True) if outcome is not None]
        if not failures:
            return
        _log.warning(
            "not every container of sandbox %s could be ended; its backend is called to stop it: %s", entry.id, failures[0]
        )
        await self._stop_backend(entry, self._core.handle(entry))
        grace = self._core.settings.deadlines.cancel_grace
        for container in containers:
            if container.may_run and not await self._containers.ended_within(container, grace):
                raise failures[0]

    async def _tear_down(self, entry: SandboxEntry) -> None:
        """Tear down network, backend and namespaces. A namespace of the backend's is disconnected before the backend stops the
        sandbox.
        """
        core, spec, handle = self._core, entry.record.spec, self._core.handle(entry)
        info = handle.known_info
        backend_first = info is None or info.netns is not NetnsSource.BACKEND
        if backend_first:
            await self._stop_backend(entry, handle)
        if core.network is not None and not spec.host_network and (info is None or info.netns is not NetnsSource.NONE):
            await core.network_step("network", core.network.tear_down(spec))
        if core.namespaces is not None and backend_first:
            await core.network_step("namespaces", core.namespaces.remove(entry.id))
        if not backend_first:
            await self._stop_backend(entry, handle)

    async def _stop_backend(self, entry: SandboxEntry, handle: BackendHandle) -> None:
        try:
            await handle.call("stop_sandbox", handle.backend.stop_sandbox(entry.id), self._core.settings.deadlines.stop_sandbox)
        except NotFound:
            _log.debug("sandbox %s was not there to stop", entry.id)

    async def _finish_removal(self, entry: SandboxEntry) -> None:
        core, handle = self._core, self._core.handle(entry)
        for container in tuple(entry.containers.values()):
            await self._containers.remove_entry(container)
        self._watcher.forget(entry)
        if entry.record.phase is not Phase.REMOVING and entry.record.phase is not Phase.CREATING:
            await core.table.save_sandbox(entry, attrs.evolve(entry.record, phase=Phase.REMOVING), must=False)
        if not entry.stop_done:
            await self._tear_down(entry)
        try:
            deadline = core.settings.deadlines.remove_sandbox
            await handle.call("remove_sandbox", handle.backend.remove_sandbox(entry.id), deadline)
        except NotFound:
            _log.debug("sandbox %s was not there to remove", entry.id)
        await core.plugins.pod(LifecyclePoint.REMOVE_POD, entry)
        shown = entry.state is not None
        await core.table.drop_sandbox(entry)
        if shown:
            core.events.publish(entry, entry.id, ContainerEventType.DELETED)


def _info(entry: SandboxEntry) -> FrozenDict[str, str]:
    record = entry.record
    info = {
        "sandboxID": record.id,
        "runtimeHandler": record.handler,
        "phase": record.phase.value,
        "netns": record.netns,
        "ips": list(record.ips),
        "overhead": unstructure(record.overhead) if record.overhead else None,
        "resources": unstructure(record.resources) if record.resources else None,
        "config": unstructure(record.config),
    }
    return FrozenDict({"info": json.dumps(info)})
