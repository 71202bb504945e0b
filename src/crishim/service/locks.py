"""The operations under way on one id, and the tasks that outlive their callers.

A client that disconnects only stops waiting: the work continues in a task of the service, and a retry of the same request
joins it. A stop or removal cancels the starts under way, each at most once, and waits for their undo, which is never
cancelled.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any, TypeAlias, TypeVar

from crishim.errors import Aborted, CrishimError

T = TypeVar("T")
_log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[], Coroutine[Any, Any, T]]

Undo: TypeAlias = Callable[[BaseException], Awaitable[None]]
"""Reverts a start; receives the error that ended it."""


class BackgroundTasks:
    """The background tasks of one `Services`: referenced until they end, and ended by `close`."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], Callable[[], object]] = {}

    def spawn(
        self,
        work: Coroutine[Any, Any, T],
        name: str,
        cancel: Callable[[], object] | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Run `work` in a task. Unexpected errors are logged, since no caller may be left to receive them.

        `cancel` is what `close` calls to end the work; by default it cancels the task. Work that is not part of the current
        RPC takes `outside_rpcs()` as `context`.
        """
        task = asyncio.create_task(work, name=name, context=context)
        self._tasks[task] = cancel or task.cancel
        task.add_done_callback(self._ended)
        return task

    async def run_to_end(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Await work that continues to its end even if the caller is cancelled."""
        return await join(self.spawn(work, name))

    async def close(self, grace: float) -> None:
        """Cancel everything that runs and wait for its undo; cancel again what has not ended after `grace` seconds."""
        for cancel in list(self._tasks.values()):
            cancel()
        while self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace)
            for task in list(self._tasks):
                task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, CrishimError):
                _log.debug("%s ended with %s", task.get_name(), error)
            else:
                _log.error("%s ended with an unexpected error", task.get_name(), exc_info=error)


class StartOperation:
    """A start under way. `request` is compared with a retry's; `task` ends when the start has succeeded or is undone."""

    def __init__(self, request: object) -> None:
        self.request = request
        self.task: asyncio.Task[Any]
        self._work: asyncio.Task[Any] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Cancel the start. Further calls do nothing, so that an undo is never cancelled."""
        if not self._cancelled:
            self._cancelled = True
            if self._work is not None:
                self._work.cancel()

    async def run(self, lock: asyncio.Lock | None, work: Work[T], undo: Undo) -> T:
        """Run `work` under the lock, and `undo` under the same lock if it fails or is cancelled."""
        async with lock or contextlib.nullcontext():
            try:
                if self._cancelled:
                    raise asyncio.CancelledError
                task: asyncio.Task[T] = asyncio.create_task(work())
                self._work = task
                return await task
            except BaseException as error:
                self._work = None
                await undo(error)
                raise


class Operations:
    """The operations on one id: at most one lifecycle call at a time, and starts that a stop cancels."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        """Protects a single lifecycle call."""
        self._starts: dict[Hashable, StartOperation] = {}

    @property
    def busy(self) -> bool:
        """Whether a lifecycle call holds the lock. Creating a container does not take the lock of its sandbox."""
        return self.lock.locked()

    def under_way(self, key: Hashable) -> StartOperation | None:
        """The start registered under a key, until it has ended."""
        return self._starts.get(key)

    def start(
        self,
        key: Hashable,
        request: object,
        work: Work[Any],
        undo: Undo,
        *,
        tasks: BackgroundTasks,
        name: str,
        alone: bool = True,
    ) -> StartOperation:
        """Begin a start; there must be none under the key. With `alone` it holds the lock until it has ended."""
        start = self._starts[key] = StartOperation(request)
        start.task = tasks.spawn(start.run(self.lock if alone else None, work, undo), name, start.cancel)
        start.task.add_done_callback(lambda _: self._starts.pop(key, None))
        return start

    async def cancel_starts(self) -> None:
        """Cancel the starts under way, and return when each has ended, its undo included."""
        starts = list(self._starts.values())
        for start in starts:
            start.cancel()
        if starts:
            await asyncio.wait({start.task for start in starts})

    @contextlib.asynccontextmanager
    async def preempting(self) -> AsyncIterator[None]:
        """Cancel the starts under way, then hold the lock."""
        await self.cancel_starts()
        async with self.lock:
            yield


async def join(task: asyncio.Task[T]) -> T:
    """Wait for a shared task; cancelling the caller does not cancel it. Raises `Aborted` if a stop has cancelled the task."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        me = asyncio.current_task()
        if task.cancelled() and me is not None and not me.cancelling():
            raise Aborted(f"{task.get_name()} was cancelled by a stop or removal") from None
        raise
