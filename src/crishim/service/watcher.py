"""Waits for the end of every running container. This is the only writer of exits.

While the backend is lost the container is UNKNOWN; recovery reads the inventory when the backend answers, and starts the wait
again. Sandboxes that can end by themselves (`SupportsSandboxWait`) are waited for in the same way.
"""

import asyncio
import functools
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from crishim.errors import CrishimError, NotFound, Unavailable
from crishim.interfaces.capabilities import SupportsSandboxWait
from crishim.interfaces.tracing import outside_rpcs
from crishim.lifecycle.records import ExitRecord
from crishim.lifecycle.states import ContainerAct, SandboxAct
from crishim.model.container import ContainerState
from crishim.model.process import Exit
from crishim.model.runtime import ContainerEventType
from crishim.model.sandbox import PodSandboxState
from crishim.service.backends import BackendHandle
from crishim.service.core import Core
from crishim.service.entries import ContainerEntry, SandboxEntry

_log = logging.getLogger(__name__)


class Watcher:
    """Waits for the ends of containers and sandboxes."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waits: dict[str, asyncio.Task[None]] = {}
        self._pausing: set[str] = set()

    def watch(self, entry: ContainerEntry) -> None:
        """Wait for the end of a running container. A wait that has failed and is pausing is retried at once."""
        if entry.id in self._pausing:
            self.forget(entry)
        if entry.id not in self._waits:
            self._begin(entry.id, self._wait_container(entry))

    def watch_sandbox(self, entry: SandboxEntry) -> None:
        """Wait for the end of a sandbox, if its backend claims `SupportsSandboxWait`."""
        if entry.id in self._pausing:
            self.forget(entry)
        if entry.id not in self._waits and SupportsSandboxWait in self._core.handle(entry).capabilities:
            self._begin(entry.id, self._wait_sandbox(entry))

    def forget(self, entry: ContainerEntry | SandboxEntry) -> None:
        """Stop waiting."""
        if (task := self._waits.pop(entry.id, None)) is not None:
            task.cancel()

    async def ended(self, entry: ContainerEntry, end: Exit) -> None:
        """Record how a container ended, once. Reason: OOMKilled after a SIGKILL, else the backend's, else Completed or Error.

        The exit is shown and published as an event at once, and stored even if the caller is cancelled.
        """
        if entry.record.exit is not None:
            return
        killed = end.oom and end.code == 128 + signal.SIGKILL  # the OOM killer may have taken another process
        reason = "OOMKilled" if killed else end.reason or ("Completed" if end.code == 0 else "Error")
        started_at = end.started_at or entry.started_at
        record = ExitRecord(
            code=end.code,
            reason=reason,
            message=end.message,
            started_at=started_at,
            finished_at=max(end.at or self._core.clock.now(), started_at),
        )
        self._core.table.show_exit(entry, record)
        self._core.events.publish(entry.sandbox, entry.id, ContainerEventType.STOPPED)
        self._core.plugins.stopped(entry)
        await self._core.tasks.run_to_end(self._core.table.write(entry), f"write of the exit of {entry.id}")

    def sandbox_ended(self, entry: SandboxEntry) -> None:
        """Show a sandbox as not ready, with an event if it was shown as ready."""
        was_ready = entry.state is PodSandboxState.READY
        self._core.table.apply(entry, SandboxAct.DIE)
        if was_ready:
            self._core.events.publish(entry, entry.id, ContainerEventType.STOPPED)

    def _begin(self, subject: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._waits[subject] = self._core.tasks.spawn(work, f"wait for {subject}", context=outside_rpcs())

        def end(_: asyncio.Task[None]) -> None:
            if self._waits.get(subject) is task:
                del self._waits[subject]

        task.add_done_callback(end)

    async def _wait_container(self, entry: ContainerEntry) -> None:
        handle = self._core.handle(entry)
        end = await self._outcome(
            entry.id,
            lambda: handle.wait("wait_container", handle.backend.wait_container(entry.id)),
            handle,
            functools.partial(self._show_lost, entry),
            functools.partial(self._show_found, entry),
        )
        if end is not None:
            await self.ended(entry, end)

    async def _wait_sandbox(self, entry: SandboxEntry) -> None:
        handle = self._core.handle(entry)
        waiter = handle.require(SupportsSandboxWait)
        end = await self._outcome(entry.id, lambda: handle.wait("wait_sandbox", waiter.wait_sandbox(entry.id)), handle)
        if end is not None:
            self.sandbox_ended(entry)

    def _show_lost(self, entry: ContainerEntry) -> None:
        if entry.may_run:
            self._core.table.apply(entry, ContainerAct.LOSE)

    def _show_found(self, entry: ContainerEntry) -> None:
        if entry.state is ContainerState.UNKNOWN:
            self._core.table.apply(entry, ContainerAct.FIND)

    async def _outcome(
        self,
        subject: str,
        wait: Callable[[], Coroutine[Any, Any, Exit]],
        handle: BackendHandle,
        lost: Callable[[], None] = lambda: None,
        alive: Callable[[], None] = lambda: None,
    ) -> Exit | None:
        """The exit; `Exit.unknown()` after `NotFound`; None if the backend is lost, since recovery starts the wait again.

        If only this object cannot be waited for, `lost` is called and the wait is retried with growing pauses; `alive` is
        called when a wait has lasted as long as the last pause.
        """
        pause = self._core.settings.retry_first
        failed = False
        while True:
            waiting = asyncio.ensure_future(wait())
            try:
                if failed:
                    await asyncio.wait(
                        {waiting, pausing := asyncio.ensure_future(self._core.clock.sleep(pause))},
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    pausing.cancel()
                    if not waiting.done():
                        alive()
                return await waiting
            except NotFound:
                return Exit.unknown()
            except CrishimError as error:
                if isinstance(error, Unavailable):
                    lost()
                if handle.problem:
                    return None
                failed = True
                _log.warning("a wait failed and is tried again in %g s: %s", pause, error)
            finally:
                waiting.cancel()
            self._pausing.add(subject)
            try:
                await self._core.clock.sleep(pause)
            finally:
                self._pausing.discard(subject)
            pause = min(2 * pause, self._core.settings.retry_most)
