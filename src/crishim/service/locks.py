"""What is under way on one id, and the tasks that outlive their callers.

A client that gives up gives up waiting, and nothing else: the work goes on in a task of ours, and a retry of the same request
joins it. A stop or removal cancels the starts that are under way, each at most once, and waits for their undo, which is never
cancelled.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable
from typing import Any, TypeAlias, TypeVar

from crishim.errors import Aborted, CrishimError

T = TypeVar("T")
_log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[], Coroutine[Any, Any, T]]

Undo: TypeAlias = Callable[[BaseException], Awaitable[None]]
"""Takes back what a start has done, after the error that ended it."""


class BackgroundTasks:
    """The tasks of one `Services`: they are referred to until they end, and are ended with it."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], Callable[[], object]] = {}

    def spawn(self, work: Coroutine[Any, Any, T], name: str, cancel: Callable[[], object] | None = None) -> asyncio.Task[T]:
        """Run work beside the caller. Errors that are not ours are logged, since nobody may be left to see them.

        `cancel` is how the work is asked to end when `close` begins; without it its task is cancelled.
        """
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = cancel or task.cancel
        task.add_done_callback(self._ended)
        return task

    async def run_to_end(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Wait for work that goes on to its end even if the caller is cancelled."""
        return await join(self.spawn(work, name))

    async def close(self, grace: float) -> None:
        """Ask everything that still runs to end, and wait for its undo; cancel what has not ended after `grace` seconds."""
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
                _log.error("%s ended with what is a bug", task.get_name(), exc_info=error)


class StartOperation:
    """A start under way: `request` is what was asked for, `task` ends when it has succeeded or is undone."""

    def __init__(self, request: object) -> None:
        self.request = request
        self.task: asyncio.Task[Any]
        self._work: asyncio.Task[Any] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Ask it to end. Asked again it does nothing, so that an undo is never cancelled."""
        if not self._cancelled:
            self._cancelled = True
            if self._work is not None:
                self._work.cancel()

    async def run(self, lock: asyncio.Lock | None, work: Work[T], undo: Undo) -> T:
        """Do the work, and undo it if it fails or was cancelled, all of it with the lock."""
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
        """To be held around a single lifecycle call."""
        self._starts: dict[Hashable, StartOperation] = {}

    @property
    def busy(self) -> bool:
        """Whether a lifecycle call has the lock. The creation of a container does not take its sandbox's."""
        return self.lock.locked()

    def under_way(self, key: Hashable) -> StartOperation | None:
        """The start under a key, until it has ended."""
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
        """Begin a start; there must be none under the key. `alone`: it holds the lock until it has ended."""
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
    """Wait for a task that others may wait for too, and that goes on without us. Raises `Aborted` if a stop cancelled it."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        me = asyncio.current_task()
        if task.cancelled() and me is not None and not me.cancelling():
            raise Aborted(f"{task.get_name()} was cancelled by a stop or removal") from None
        raise
