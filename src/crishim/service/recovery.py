"""At start, and when a lost backend is back: inventory, plan, repair, watch.

The plan is `lifecycle.reconcile`'s; here it is carried out. What is just being made, or has a call in its lane, is left to that
call. A repair that fails is logged, and leaves its record to the next recovery or to the client's own retries.
"""

import contextlib
import logging

from crishim.errors import CrishimError, NotFound, Unavailable
from crishim.lifecycle import reconcile
from crishim.lifecycle.records import Phase
from crishim.lifecycle.states import ContainerAct
from crishim.model.container import ContainerState
from crishim.model.sandbox import PodSandboxState
from crishim.model.values import ContainerId, SandboxId
from crishim.service.backends import Seat
from crishim.service.containers import KILL, Containers
from crishim.service.core import Core
from crishim.service.sandboxes import Sandboxes
from crishim.service.table import ContainerEntry, SandboxEntry
from crishim.service.watcher import Watcher

_log = logging.getLogger(__name__)

_SHOWN = (reconcile.SandboxIs, reconcile.ContainerIs, reconcile.WatchContainer)
"""Repairs that ask nobody, and hold only for as long as no call has changed anything: they come before the first call."""


class Recovery:
    """Makes records and reality agree."""

    def __init__(self, core: Core, watcher: Watcher, sandboxes: Sandboxes, containers: Containers) -> None:
        self._core = core
        self._watcher = watcher
        self._sandboxes = sandboxes
        self._containers = containers

    def show_recorded(self) -> None:
        """Before any backend was asked: show what the records alone can tell.

        A sandbox is what it was asked to be, unless the machine has booted anew; a container without an exit is UNKNOWN.
        """
        for sandbox in self._core.table.sandboxes.values():
            ready = sandbox.record.phase is Phase.READY and sandbox.record.boot_id == self._core.settings.boot_id
            self._core.table.show_sandbox(sandbox, PodSandboxState.READY if ready else PodSandboxState.NOTREADY)
        for container in self._core.table.containers.values():
            if container.record.exit is not None:
                self._core.table.show_container(container, ContainerState.EXITED)
            else:
                self._core.table.show_container(container, ContainerState.UNKNOWN)

    async def recover(self, seat: Seat) -> None:
        """Reconcile one backend that has just answered, and let calls through to it again. Raises what the inventory raises."""
        await seat.idle()
        deadline = self._core.settings.deadlines.inventory
        inventory = await seat.ask("inventory", seat.backend.inventory(), deadline)
        sandboxes = [entry for entry in self._core.table.sandboxes.values() if entry.record.handler in seat.handlers]
        records = [entry.record for entry in sandboxes]
        containers = [entry.record for sandbox in sandboxes for entry in sandbox.containers.values()]
        repairs = reconcile.plan(records, containers, inventory, boot_id=self._core.settings.boot_id)
        for repair in repairs:
            if isinstance(repair, _SHOWN):
                await self._attempt(repair, seat)
        seat.open()
        for repair in repairs:
            if not isinstance(repair, _SHOWN):
                self._core.observer.repaired(type(repair).__name__)
                await self._attempt(repair, seat)

    async def _attempt(self, repair: reconcile.Repair, seat: Seat) -> None:
        try:
            await self._carry_out(repair, seat)
        except Unavailable as error:
            _log.warning("repair %s waits: %s", repair, error)
        except CrishimError:
            _log.exception("repair %s failed; it is tried again at the next start", repair)

    async def _carry_out(self, repair: reconcile.Repair, seat: Seat) -> None:
        if isinstance(repair, reconcile.RemoveLeftoverContainer):
            await self._remove_leftover_container(repair, seat)
            return
        if isinstance(repair, reconcile.RemoveLeftoverSandbox):
            await self._remove_leftover_sandbox(repair, seat)
            return
        sandbox = self._core.table.sandboxes.get(SandboxId(repair.id))
        if sandbox is not None and sandbox.state is not None and not sandbox.lane.busy:
            await self._repair_sandbox(repair, sandbox)
        container = self._core.table.containers.get(ContainerId(repair.id))
        if container is not None and container.state is not None and not (container.lane.busy or container.sandbox.lane.busy):
            await self._repair_container(repair, container, seat)

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
                    table.show_sandbox(entry, PodSandboxState.READY)
                    self._watcher.watch_sandbox(entry)
                else:
                    self._watcher.sandbox_ended(entry)

    async def _repair_container(self, repair: reconcile.Repair, entry: ContainerEntry, seat: Seat) -> None:
        table = self._core.table
        match repair:
            case reconcile.FinishContainerRemoval(_, running):
                if running:
                    table.show_container(entry, ContainerState.UNKNOWN)
                else:
                    table.show_container(entry, ContainerState.CREATED)
                await self._containers.remove_entry(entry)
            case reconcile.ContainerIs(_, state):
                table.show_container(entry, state)
            case reconcile.WatchContainer(_, started_at):
                entry.started_at = started_at or entry.started_at or entry.record.created_at
                table.apply(entry, ContainerAct.FIND)
                self._watcher.watch(entry)
            case reconcile.TakeExit(_, end):
                await self._watcher.ended(entry, end)
            case reconcile.KillAgain():
                await seat.call("kill_container", seat.backend.kill_container(entry.id, KILL))

    async def _remove_leftover_container(self, leftover: reconcile.RemoveLeftoverContainer, seat: Seat) -> None:
        backend, deadlines = seat.backend, self._core.settings.deadlines
        _log.warning("container %s is known to the backend alone; it is removed", leftover.id)
        with contextlib.suppress(NotFound):
            if leftover.running:
                await seat.call("kill_container", backend.kill_container(leftover.id, KILL), deadlines.kill_container)
                await seat.call("wait_container", backend.wait_container(leftover.id), deadlines.exit_after_kill)
            await seat.call("remove_container", backend.remove_container(leftover.id), deadlines.remove_container)

    async def _remove_leftover_sandbox(self, leftover: reconcile.RemoveLeftoverSandbox, seat: Seat) -> None:
        backend, deadlines = seat.backend, self._core.settings.deadlines
        _log.warning("sandbox %s is known to the backend alone; it is removed", leftover.id)
        with contextlib.suppress(NotFound):
            await seat.call("stop_sandbox", backend.stop_sandbox(leftover.id), deadlines.stop_sandbox)
        with contextlib.suppress(NotFound):
            await seat.call("remove_sandbox", backend.remove_sandbox(leftover.id), deadlines.remove_sandbox)
