"""The order of lifecycle calls on one id, and tasks that outlive their callers.

A client's deadline cancels its waiting, never the work: the work is a task of ours, and a retry joins it. A stop or removal
overtakes a start that is still under way: it cancels it and waits for its undo.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from crishim.errors import Aborted, CrishimError

T = TypeVar("T")
K = TypeVar("K")
_log = logging.getLogger(__name__)


class Lane:
    """One id: at most one lifecycle call at a time, and starts that can be overtaken."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._starts: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether some call has the turn. The creation of a container does not take its sandbox's."""
        return self._lock.locked()

    @property
    def turn(self) -> asyncio.Lock:
        """Hold it around a single lifecycle call."""
        return self._lock

    async def start(self, work: Callable[[], Awaitable[T]], *, alone: bool = True) -> T:
        """Do work that a stop may cancel; `alone` holds the turn meanwhile. Runs in the caller's own task."""
        task = asyncio.current_task()
        assert task is not None
        self._starts.add(task)
        try:
            if not alone:
                return await work()
            async with self._lock:
                return await work()
        finally:
            self._starts.discard(task)

    async def overtake(self) -> None:
        """Cancel the starts under way, and return when they have undone what they did."""
        starts = set(self._starts)
        for task in starts:
            task.cancel()
        if starts:
            await asyncio.wait(starts)

    @contextlib.asynccontextmanager
    async def stop(self) -> AsyncIterator[None]:
        """Overtake the starts, then hold the turn."""
        await self.overtake()
        async with self._lock:
            yield


class BackgroundTasks:
    """The tasks of one `Services`: kept until they end, and ended with it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run work beside the caller. Errors that are not ours are logged, since nobody may be left to see them."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def shielded(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run work to its end even if the caller is cancelled while it waits."""
        return await join(self.spawn(work, name))

    async def close(self, grace: float) -> None:
        """Cancel everything that still runs, and wait for its undo; after `grace` seconds cancel again."""
        while self._tasks:
            tasks = set(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=grace)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, CrishimError):
                _log.debug("%s ended with %s", task.get_name(), error)
            else:
                _log.error("%s ended with what is a bug", task.get_name(), exc_info=error)


def remember(tasks: dict[K, asyncio.Task[T]], key: K, task: asyncio.Task[T]) -> None:
    """Keep a task under a key until it ends, or until another one takes its place."""

    def forget(ended: asyncio.Task[T]) -> None:
        if tasks.get(key) is ended:
            del tasks[key]

    tasks[key] = task
    task.add_done_callback(forget)


async def join(task: asyncio.Task[T]) -> T:
    """Wait for a task that others may wait for too. Raises `Aborted` if a stop overtook it."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        me = asyncio.current_task()
        if task.cancelled() and me is not None and not me.cancelling():
            raise Aborted(f"{task.get_name()} was overtaken by a stop or removal") from None
        raise
