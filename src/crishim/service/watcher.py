"""One wait per running container, and the only writer of exits.

While the backend cannot be reached the container is shown UNKNOWN, and nothing is guessed: recovery asks the backend when it is
back, and has the wait begin anew. A sandbox that can die by itself is waited for in the same way.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from crishim.errors import CrishimError, NotFound, Unavailable
from crishim.interfaces.capabilities import SupportsSandboxWait
from crishim.lifecycle.records import ExitRecord
from crishim.lifecycle.states import ContainerAct
from crishim.model.process import Exit
from crishim.model.runtime import ContainerEventType
from crishim.model.sandbox import PodSandboxState
from crishim.service.core import Core
from crishim.service.table import ContainerEntry, SandboxEntry

_log = logging.getLogger(__name__)


class Watcher:
    """Waits for ends."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waits: dict[str, asyncio.Task[None]] = {}

    def watch(self, entry: ContainerEntry) -> None:
        """Wait for the end of a running container; a second call for the same one does nothing."""
        if entry.id not in self._waits:
            self._begin(entry.id, self._wait_container(entry))

    def watch_sandbox(self, entry: SandboxEntry) -> None:
        """Wait for the end of a sandbox, where its backend can tell."""
        if entry.id not in self._waits and SupportsSandboxWait in self._core.seat(entry).capabilities:
            self._begin(entry.id, self._wait_sandbox(entry))

    def forget(self, entry: ContainerEntry | SandboxEntry) -> None:
        """Wait no longer."""
        if (task := self._waits.pop(entry.id, None)) is not None:
            task.cancel()

    async def ended(self, entry: ContainerEntry, end: Exit) -> None:
        """Write how a container ended, once. Reason: OOMKilled, else the backend's, else Completed or Error."""
        if entry.record.exit is not None:
            return
        reason = "OOMKilled" if end.oom else end.reason or ("Completed" if end.code == 0 else "Error")
        started_at = end.started_at or entry.started_at
        record = ExitRecord(
            code=end.code,
            reason=reason,
            message=end.message,
            started_at=started_at,
            finished_at=max(end.at or self._core.clock.now(), started_at),
        )
        await self._core.table.save_exit(entry, record)
        self._core.events.publish(entry.sandbox, entry.id, ContainerEventType.STOPPED)

    def sandbox_ended(self, entry: SandboxEntry) -> None:
        """Show that a sandbox is not ready any more, with an event if it was shown as ready."""
        was_ready = entry.state is PodSandboxState.READY
        self._core.table.show_sandbox(entry, PodSandboxState.NOTREADY)
        if was_ready:
            self._core.events.publish(entry, entry.id, ContainerEventType.STOPPED)

    def _begin(self, subject: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._waits[subject] = self._core.tasks.spawn(work, f"wait for {subject}")

        def end(_: asyncio.Task[None]) -> None:
            if self._waits.get(subject) is task:
                del self._waits[subject]

        task.add_done_callback(end)

    async def _wait_container(self, entry: ContainerEntry) -> None:
        seat = self._core.seat(entry)
        end = await self._outcome(lambda: seat.wait("wait_container", seat.backend.wait_container(entry.id)))
        if end is not None:
            await self.ended(entry, end)
        elif entry.may_run:
            self._core.table.apply(entry, ContainerAct.LOSE)

    async def _wait_sandbox(self, entry: SandboxEntry) -> None:
        seat = self._core.seat(entry)
        waiter = seat.require(SupportsSandboxWait)
        end = await self._outcome(lambda: seat.wait("wait_sandbox", waiter.wait_sandbox(entry.id)))
        if end is not None:
            self.sandbox_ended(entry)

    async def _outcome(self, wait: Callable[[], Awaitable[Exit]]) -> Exit | None:
        """How it ended; None if the backend went away. What is gone ended in a way that nobody can tell."""
        pause = self._core.settings.retry_first
        while True:
            try:
                return await wait()
            except NotFound:
                return Exit.unknown()
            except Unavailable:
                return None
            except CrishimError as error:
                _log.warning("a wait failed and is tried again in %g s: %s", pause, error)
            await self._core.clock.sleep(pause)
            pause = min(2 * pause, self._core.settings.retry_most)
