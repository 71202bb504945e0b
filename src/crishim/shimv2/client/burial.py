"""Burial: the end of a shim that has died or is killed, and of what it leaves on the node.

Its process is killed, the processes that it ran are, and its binary's `delete` is run for every task. What could not be freed
stays recorded (`ShimRecord.dead`, with all tasks), and is tried again with growing pauses; after `_RETRIES` times only removals
of the sandbox try again.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import CrishimError, DeadlineExceeded, NotFound
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
"""Seconds before the first retry, and at most before a later one."""


_NOT_LOOKED_AT: Final = "what was not looked at yet"


class Burial:
    """Of one sandbox's shim. `lock` serializes what is done with the shim; `forget` is called when nothing is left of it."""

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
        """What the last attempt could not free, for people."""

    @property
    def pending(self) -> bool:
        """Whether the shim is dead, and something of it may be left on the node."""
        record = self._folder.shim()
        return record is not None and record.dead

    async def bury(self) -> None:
        """Try once. Every task has an exit afterwards. With the lock."""
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
            _log.log(level, "the shim of sandbox %s is lost; what it has left is freed", self._folder.sandbox_id)
            self._folder.write_shim(attrs.evolve(record, dead=True))

    async def check(self, record: ShimRecord) -> None:
        """After a clean exit of the shim: some are known to leave what they say is gone. With the lock."""
        self.left = await self._leftovers([])
        if self.left:
            self._folder.write_shim(attrs.evolve(record, dead=True))
        self._conclude()

    def begin(self, record: ShimRecord) -> None:
        """Bury the shim in the background: it may take as long as its binary's `delete` of every task."""
        self._mark_dead(record)
        self.left = (_NOT_LOOKED_AT,)
        self.retry_later(0.0)

    def retry_later(self, pause: float = _RETRY_PAUSE) -> None:
        """Try again in the background, if nobody does so, after `pause` seconds first."""
        if self._retrying is None or self._retrying.done():
            name = f"leftovers of sandbox {self._folder.sandbox_id}"
            self._retrying = asyncio.create_task(self._retry(pause), name=name)

    def watch(self, record: ShimRecord) -> None:
        """Notice the end of the shim's own process at once, and collect it where it was left to us."""
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
        self._noticing = asyncio.create_task(self._notice_end(process), name=name)

    def close(self) -> None:
        """End what goes on in the background; the shim goes on."""
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
        """Run the binary's `delete` for every task, members first; whether one took too long, and what has failed."""
        own = self._folder.sandbox_id
        failures: list[str] = []
        for task in sorted(self._tasks.values(), key=lambda task: task.id == own):
            if self._folder.gone(task.id):
                continue
            try:
                end = await self._binary.delete(task.id, Path(task.record.bundle))
            except DeadlineExceeded as error:  # the others would take as long
                return True, [*failures, f"task {task.id} ({error})"]
            except (CrishimError, OSError) as error:
                if self._folder.created(task.id):
                    failures.append(f"task {task.id} ({error})")
                    continue
                # Of a task that was not made shims do not know how to delete it, now or later: runc's misses its own file.
                _log.warning("task %s was not made, and its delete failed: %s", task.id, error)
                self._folder.write_gone(task.id)
            else:
                await task.finish(end)
                self._folder.write_gone(task.id)
        return False, failures

    async def _leftovers(self, failures: list[str]) -> tuple[str, ...]:
        """What is left on the node. Where the binary can look, a `delete` that has failed may have left nothing."""
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
            except OSError as error:  # as of a full disk
                _log.warning("what the shim of sandbox %s has left: %s", self._folder.sandbox_id, error)
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
                    _log.warning("what the shim of sandbox %s has left: %s", self._folder.sandbox_id, error)
                    self.retry_later()
