"""The copy of a container's output for one attached client."""

import asyncio
import collections
import logging
from collections.abc import Coroutine
from typing import Any

from crishim.interfaces.capabilities import ByteWriter, ProcessIO
from crishim.logs.lines import Stream

_log = logging.getLogger(__name__)


class Attacher:
    """Delivers output to one client, from a queue of `limit` bytes. A client whose queue overflows is dropped."""

    def __init__(self, io: ProcessIO, limit: int) -> None:
        self._writers = {"stdout": io.stdout, "stderr": io.stderr}
        self._limit = limit
        self._queue: collections.deque[tuple[ByteWriter, bytes]] = collections.deque()
        self._waiting = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._delivery: asyncio.Task[None] | None = None

    def offer(self, stream: Stream, data: bytes) -> None:
        """Queue a piece of output. Never waits."""
        writer = self._writers[stream]
        if writer is None or self._ended:
            return
        if self._waiting + len(data) > self._limit:
            _log.warning("an attached client that is too slow is dropped")
            self.end()
            if self._delivery is not None:
                self._delivery.cancel()
            return
        self._waiting += len(data)
        self._queue.append((writer, data))
        self._changed.set()

    def end(self) -> None:
        """End the output; queued pieces are still delivered."""
        self._ended = True
        self._changed.set()

    async def run(self) -> None:
        """Deliver until the end, until the client disconnects, or until it is dropped."""
        self._delivery = asyncio.create_task(self._deliver())
        try:
            await asyncio.wait({self._delivery})
        finally:
            self._ended = True
            self._delivery.cancel()
        if not self._delivery.cancelled():
            self._delivery.result()

    async def run_beside(self, pump: Coroutine[Any, Any, None], *others: Coroutine[Any, Any, None]) -> None:
        """Run beside `pump`, which offers the output, and `others`, which pass on what the client sends. All end with this.

        Raises what has ended the pump. What else they raise is logged, but for the errors of a connection that has ended.
        """
        tasks = [asyncio.create_task(work) for work in (pump, *others)]
        try:
            await self.run()
            if tasks[0].done() and (error := tasks[0].exception()) is not None:
                raise error
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
                    _log.warning("the connection of an attached client failed: %r", outcome)

    async def _deliver(self) -> None:
        while self._queue or not self._ended:
            self._changed.clear()
            while self._queue:
                writer, data = self._queue.popleft()
                try:
                    await writer.write(data)
                except (BrokenPipeError, ConnectionError):
                    return
                self._waiting -= len(data)
            if not self._ended:
                await self._changed.wait()
