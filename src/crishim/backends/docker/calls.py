"""Calls that change something, one at a time for each container.

The engine goes on with a request whose client has left. So a caller that is cancelled leaves its call running, and the next
call for the same container waits for it: a removal then finds whatever a creation or a start has made.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Calls:
    """What is under way, by container."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[Any]] = {}

    async def run(self, subject: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `call` gives or raises, once nothing else is under way for `subject`."""
        await self.settled(subject)
        task = self._under_way[subject] = asyncio.create_task(call(), name=f"call for {subject}")
        task.add_done_callback(lambda done: self._done(subject, done))
        return await asyncio.shield(task)

    async def settled(self, subject: str) -> None:
        """Return when nothing is under way for `subject`."""
        while (task := self._under_way.get(subject)) is not None:
            await asyncio.wait({task})

    def _done(self, subject: str, task: "asyncio.Task[Any]") -> None:
        if self._under_way.get(subject) is task:
            del self._under_way[subject]
        if not task.cancelled():
            task.exception()  # whoever called may have left
