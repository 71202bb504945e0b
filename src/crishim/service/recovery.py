"""Recovery, at start and when a lost backend answers again: inventory, plan, repairs, watches.

`lifecycle.reconcile` makes the plan; this module carries it out. Objects that are being created or have a call under way are
left to that call. A failed repair is logged and left to the next recovery or to the client's retries.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from crishim.errors import CrishimError, NotFound, Unavailable
from crishim.lifecycle import reconcile
from crishim.lifecycle.records import ContainerRecord, Phase
from crishim.lifecycle.states import ContainerAct, SandboxAct
from crishim.model.container import ContainerState, ObservedContainer
from crishim.model.values import ContainerId, SandboxId
from crishim.service.backends import BackendHandle
from crishim.service.containers import KILL, Containers
from crishim.service.core import Core
from crishim.service.entries import ContainerEntry, SandboxEntry
from crishim.service.sandboxes import Sandboxes
from crishim.service.watcher import Watcher

_log = logging.getLogger(__name__)

_SHOWN = (reconcile.SandboxIs, reconcile.ContainerIs, reconcile.WatchContainer)
"""Repairs that only set a state and need no backend call. They are valid only until a call changes something, so they run
before the first call.
"""


_AT_ONCE = 8
"""Pods repaired concurrently."""


class Recovery:
    """Makes records and backends agree."""

    def __init__(self, core: Core, watcher: Watcher, sandboxes: Sandboxes, containers: Containers) -> None:
        self._core = core
        self._watcher = watcher
        self._sandboxes = sandboxes
        self._containers = containers
        self._under_way: set[asyncio.Task[None]] = set()

    def show_recorded(self) -> None:
        """Show the states that follow from the records alone, before any backend has answered.

        A sandbox is ready if its record says so and the machine has not rebooted since; a container without a recorded exit is
        UNKNOWN.
        """
        for sandbox in self._core.table.sandboxes.values():
            ready = sandbox.record.phase is Phase.READY and sandbox.record.boot_id == self._core.settings.boot_id
            self._core.table.apply(sandbox, SandboxAct.FIND if ready else SandboxAct.DIE)
        for container in self._core.table.containers.values():
            self._core.table.apply(container, ContainerAct.LOSE if container.record.exit is None else ContainerAct.EXIT)

    async def recover(self, handle: BackendHandle) -> None:
        """Reconcile one backend that has just answered, and open it for calls. Raises what the inventory raises.

        Repairs that need the backend, the network or time run in background tasks, one per pod.
        """
        with contextlib.suppress(TimeoutError):  # a call that hangs ends at its deadline
            async with asyncio.timeout(self._core.settings.deadlines.cancel_grace):
                await handle.idle()
        deadline = self._core.settings.deadlines.inventory
        inventory = await handle.ask("inventory", handle.backend.inventory(), deadline)
        sandboxes = []
        for entry in self._core.table.sandboxes.values():
            if entry.record.handler in handle.handlers:
                if handle.owns(entry.record):
                    sandboxes.append(entry)
                else:
                    _log.error(
                        "sandbox %s belongs to backend %r, and its handler is %r now: not touched",
                        entry.id,
                        entry.record.backend,
                        handle.name,
                    )
        records = [entry.record for entry in sandboxes]
        ours = {entry.id for entry in sandboxes}
        containers = [entry.record for sandbox in sandboxes for entry in sandbox.containers.values()]
        repairs = reconcile.plan(records, containers, inventory, boot_id=self._core.settings.boot_id)
        for repair in repairs:
            if isinstance(repair, _SHOWN):
                await self._attempt(repair, handle)
        handle.open()
        slots = asyncio.Semaphore(_AT_ONCE)
        for pod, pod_repairs in _by_pod(repairs, (*containers, *inventory.containers)).items():
            if pod not in self._core.table.sandboxes:
                self._leftovers(pod, pod_repairs, handle, slots)
            elif pod in ours:  # else the record belongs to another backend: not touched
                known = [repair for repair in pod_repairs if repair.id not in self._core.table.set_aside]
                self._begin(self._repair_pod(known, handle, slots), f"recovery of {pod}")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._core.tasks.spawn(work, name)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _leftovers(self, pod: str, repairs: list[reconcile.Repair], handle: BackendHandle, slots: asyncio.Semaphore) -> None:
        """Schedule the removal of a pod that has no record. The delay and the log message give an operator time to stop the
        removal where the records were lost or deleted.
        """
        aside = self._core.table.set_aside
        if pod in aside or any(repair.id in aside for repair in repairs):
            return
        delay = self._core.settings.remove_unrecorded_after
        self._core.table.unrecorded.add(pod)
        _log.error("pod %s exists in backend %s and has no record; it is removed in %g s", pod, handle.name, delay)
        if delay <= 0:
            self._begin(self._remove_leftovers(pod, repairs, handle, slots), f"removal of {pod}")
        else:
            self._core.tasks.spawn(self._remove_later(pod, repairs, handle, slots, delay), f"removal of {pod}")

    async def _remove_later(
        self, pod: str, repairs: list[reconcile.Repair], handle: BackendHandle, slots: asyncio.Semaphore, delay: float
    ) -> None:
        await self._core.clock.sleep(delay)
        await self._remove_leftovers(pod, repairs, handle, slots)

    async def _remove_leftovers(
        self, pod: str, repairs: list[reconcile.Repair], handle: BackendHandle, slots: asyncio.Semaphore
    ) -> None:
        await self._repair_pod(repairs, handle, slots)
        self._core.table.unrecorded.discard(pod)

    async def idle(self) -> None:
        """Return when no repair is under way."""
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    async def _repair_pod(self, repairs: list[reconcile.Repair], handle: BackendHandle, slots: asyncio.Semaphore) -> None:
        async with slots:
            for repair in repairs:
                self._core.observer.repaired(type(repair).__name__)
                await self._attempt(repair, handle)

    async def _attempt(self, repair: reconcile.Repair, handle: BackendHandle) -> None:
        try:
            await self._carry_out(repair, handle)
        except Unavailable as error:
            _log.warning("repair %s waits: %s", repair, error)
        except CrishimError:
            _log.exception("repair %s failed; it is tried again at the next start", repair)

    async def _carry_out(self, repair: reconcile.Repair, handle: BackendHandle) -> None:
        if isinstance(repair, reconcile.RemoveLeftoverContainer):
            await self._remove_leftover_container(repair, handle)
            return
        if isinstance(repair, reconcile.RemoveLeftoverSandbox):
            await self._remove_leftover_sandbox(repair, handle)
            return
        sandbox = self._core.table.sandboxes.get(SandboxId(repair.id))
        if sandbox is not None and sandbox.state is not None and not sandbox.operations.busy:
            await self._repair_sandbox(repair, sandbox)
        container = self._core.table.containers.get(ContainerId(repair.id))
        if (
            container is not None
            and container.state is not None
            and not (container.operations.busy or container.sandbox.operations.busy)
        ):
            await self._repair_container(repair, container, handle)

    async def _repair_sandbox(self, repair: reconcile.Repair, entry: SandboxEntry) -> None:
        table = self._core.table
        match repair:
            case reconcile.FinishSandboxRemoval():
                await self._sandboxes.remove_again(entry)
            case reconcile.FinishSandboxStop():
                await self._sandboxes.stop_again(entry)
            case reconcile.ForgetNetwork():
                await self._sandboxes.forget_network(entry)
            case reconcile.SandboxIs(_, ready):
                if ready:
                    table.apply(entry, SandboxAct.FIND)
                    self._watcher.watch_sandbox(entry)
                else:
                    self._watcher.sandbox_ended(entry)

    async def _repair_container(self, repair: reconcile.Repair, entry: ContainerEntry, handle: BackendHandle) -> None:
        table = self._core.table
        match repair:
            case reconcile.FinishContainerRemoval(_, running):
                if entry.state is not ContainerState.EXITED:
                    table.apply(entry, ContainerAct.LOSE if running else ContainerAct.FIND_CREATED)
                await self._containers.remove_entry(entry)
            case reconcile.ContainerIs(_, state):
                table.apply(entry, ContainerAct.EXIT if state is ContainerState.EXITED else ContainerAct.FIND_CREATED)
            case reconcile.WatchContainer(_, started_at):
                entry.started_at = started_at or entry.started_at or entry.record.created_at
                table.apply(entry, ContainerAct.FIND)
                self._watcher.watch(entry)
            case reconcile.TakeExit(_, end):
                await self._watcher.ended(entry, end)
            case reconcile.KillAgain():
                await handle.call("kill_container", handle.backend.kill_container(entry.id, KILL))

    async def _remove_leftover_container(self, leftover: reconcile.RemoveLeftoverContainer, handle: BackendHandle) -> None:
        backend, deadlines = handle.backend, self._core.settings.deadlines
        _log.warning("container %s is known to the backend alone; it is removed", leftover.id)
        with contextlib.suppress(NotFound):
            if leftover.running:
                await handle.call("kill_container", backend.kill_container(leftover.id, KILL), deadlines.kill_container)
                await handle.call("wait_container", backend.wait_container(leftover.id), deadlines.exit_after_kill)
            await handle.call("remove_container", backend.remove_container(leftover.id), deadlines.remove_container)

    async def _remove_leftover_sandbox(self, leftover: reconcile.RemoveLeftoverSandbox, handle: BackendHandle) -> None:
        backend, deadlines = handle.backend, self._core.settings.deadlines
        _log.warning("sandbox %s is known to the backend alone; it is removed", leftover.id)
        with contextlib.suppress(NotFound):
            await handle.call("stop_sandbox", backend.stop_sandbox(leftover.id), deadlines.stop_sandbox)
        with contextlib.suppress(NotFound):
            await handle.call("remove_sandbox", backend.remove_sandbox(leftover.id), deadlines.remove_sandbox)


def _by_pod(
    repairs: Iterable[reconcile.Repair], containers: Iterable[ContainerRecord | ObservedContainer]
) -> Mapping[str, list[reconcile.Repair]]:
    """The repairs that need more than a state change, in order, grouped by sandbox id."""
    owners: dict[str, str] = {container.id: container.sandbox_id for container in containers}
    grouped: dict[str, list[reconcile.Repair]] = {}
    for repair in repairs:
        if not isinstance(repair, _SHOWN):
            subject: str = repair.id
            grouped.setdefault(owners.get(subject, subject), []).append(repair)
    return grouped
