"""Cleans up after a shim that has died or is killed.

Its process is killed, its helper processes are, and its binary's `delete` is run for every task. What could not be freed stays
recorded (`ShimRecord.dead`, with all tasks), and is retried with growing pauses; after `_RETRIES` times only removals of the
sandbox retry it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import CrishimError, DeadlineExceeded, NotFound
from crishim.interfaces.tracing import outside_rpcs
from crishim.linux.children import Child, children
from crishim.model.process import Exit
from crishim.shimv2.client.binary import ShimBinary
from crishim.shimv2.client.cleanup import end_shim
from crishim.shimv2.client.files import SandboxFolder, ShimRecord
from crishim.shimv2.client.task import ShimTask

_log = logging.getLogger(__name__)

_RETRIES: Final = 12
_RETRY_PAUSE: Final = 5.0
_LONGEST_RETRY_PAUSE: Final = 300.0
"""The longest pause before a retry, in seconds."""


_NOT_LOOKED_AT: Final = "leftovers that were not looked for yet"


class Burial:
    """The cleanup of one sandbox's shim. `lock` serializes operations on the shim; `forget` is called when nothing is left of
    it.
    """

    def __init__(
        self,
        folder: SandboxFolder,
        binary: ShimBinary,
        tasks: Mapping[str, ShimTask],
        lock: asyncio.Lock,
        forget: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._binary = binary
        self._tasks = tasks
        self._lock = lock
        self._forget = forget
        self._process: Child | None = None
        self._noticing: asyncio.Task[None] | None = None
        self._retrying: asyncio.Task[None] | None = None
        self.left: tuple[str, ...] = ()
        """What the last attempt could not free, as text."""

    @property
    def pending(self) -> bool:
        """Whether the shim is dead and its leftovers may not all be freed."""
        record = self._folder.shim()
        return record is not None and record.dead

    async def bury(self) -> None:
        """Try once. Every task has an exit afterwards. The caller holds the lock."""
        record = self._folder.shim()
        if record is None:
            return
        self._mark_dead(record)
        self.left = (_NOT_LOOKED_AT,)
        try:
            await asyncio.to_thread(end_shim, record.pid, record.born, Path(record.bundle))
            await self._binary.kill_helpers(self._folder.sandbox_id)
            late, failures = await self._delete_tasks()
            self.left = tuple(failures) if late else await self._leftovers(failures)
        finally:
            for task in self._tasks.values():
                await task.finish(Exit.unknown())
            self._conclude()

    def _mark_dead(self, record: ShimRecord) -> None:
        if not record.dead:
            level = logging.WARNING if self._tasks else logging.DEBUG
            _log.log(level, "the shim of sandbox %s is lost; its leftovers are freed", self._folder.sandbox_id)
            self._folder.write_shim(attrs.evolve(record, dead=True))

    async def check(self, record: ShimRecord) -> None:
        """Look for leftovers after a clean exit of the shim, since some shims do not free everything. The caller holds the
        lock.
        """
        self.left = await self._leftovers([])
        if self.left:
            self._folder.write_shim(attrs.evolve(record, dead=True))
        self._conclude()

    def begin(self, record: ShimRecord) -> None:
        """Clean up in the background, since the binary's `delete` of every task may take long."""
        self._mark_dead(record)
        self.left = (_NOT_LOOKED_AT,)
        self.retry_later(0.0)

    def retry_later(self, pause: float = _RETRY_PAUSE) -> None:
        """Retry in the background after `pause` seconds, unless a retry is already scheduled."""
        if self._retrying is None or self._retrying.done():
            name = f"leftovers of sandbox {self._folder.sandbox_id}"
            self._retrying = asyncio.create_task(self._retry(pause), name=name, context=outside_rpcs())

    def watch(self, record: ShimRecord) -> None:
        """Watch the shim's process for its end, and reap it if it is a child of this process."""
        if not record.pid or (self._noticing is not None and not self._noticing.done()):
            return
        try:
            process = children.adopt(record.pid)
        except NotFound:
            return
        if process.identity.start != record.born:
            process.disown()
            return
        self._process = process
        name = f"end of the shim of sandbox {self._folder.sandbox_id}"
        self._noticing = asyncio.create_task(self._notice_end(process), name=name, context=outside_rpcs())

    def close(self) -> None:
        """End the background tasks; the shim keeps running."""
        for work in (self._noticing, self._retrying):
            if work is not None:
                work.cancel()
        if self._process is not None:
            self._process.disown()

    def _conclude(self) -> None:
        if not self.left:
            self._forget()
            return
        _log.warning("the shim of sandbox %s has left %s", self._folder.sandbox_id, "; ".join(self.left))
        self.retry_later()

    async def _delete_tasks(self) -> tuple[bool, list[str]]:
        """Run the binary's `delete` for every task, members first; return whether one timed out, and the failures."""
        own = self._folder.sandbox_id
        failures: list[str] = []
        for task in sorted(self._tasks.values(), key=lambda task: task.id == own):
            if self._folder.gone(task.id):
                continue
            try:
                end = await self._binary.delete(task.id, Path(task.record.bundle))
            except DeadlineExceeded as error:  # the others would time out too
                return True, [*failures, f"task {task.id} ({error})"]
            except (CrishimError, OSError) as error:
                if self._folder.created(task.id):
                    failures.append(f"task {task.id} ({error})")
                    continue
                # A shim cannot delete a task that was not created, now or later: runc's misses its own file.
                _log.warning("task %s was not created, and its delete failed: %s", task.id, error)
                self._folder.write_gone(task.id)
            else:
                await task.finish(end)
                self._folder.write_gone(task.id)
        return False, failures

    async def _leftovers(self, failures: list[str]) -> tuple[str, ...]:
        """The leftovers on the node. If the binary can look for them, a failed `delete` may have left nothing."""
        try:
            left = await self._binary.remove_leftovers(self._folder.sandbox_id)
        except OSError as error:
            return (*failures, str(error))
        if left is None:
            return tuple(failures)
        if not left:
            for task in self._tasks.values():
                self._folder.write_gone(task.id)
        return tuple(left)

    async def _retry(self, pause: float) -> None:
        for _ in range(_RETRIES):
            await asyncio.sleep(pause)
            try:
                async with self._lock:
                    if self.pending:
                        await self.bury()
                    if not self.pending:
                        self._folder.remove_if_empty()
                        return
            except OSError as error:  # for example a full disk
                _log.warning("leftovers of the shim of sandbox %s: %s", self._folder.sandbox_id, error)
            pause = min(max(2 * pause, _RETRY_PAUSE), _LONGEST_RETRY_PAUSE)
        _log.error("sandbox %s: %s stay until its removal", self._folder.sandbox_id, "; ".join(self.left))

    async def _notice_end(self, process: Child) -> None:
        await process.ended()
        process.collect()
        async with self._lock:
            record = self._folder.shim()
            if record is not None and not record.dead and record.pid == process.identity.pid:
                try:
                    await self.bury()
                except OSError as error:
                    _log.warning("leftovers of the shim of sandbox %s: %s", self._folder.sandbox_id, error)
                    self.retry_later()
