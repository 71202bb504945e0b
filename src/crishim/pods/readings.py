"""Reading files for stats: all readings of one turn of the event loop by one thread, one after the other.

A list of a hundred pods has hundreds of readings of some 20 files each. With a thread for each reading the threads pass
Python's lock to each other at every system call, which takes longer than the readings themselves.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Readings:
    """Collects the readings of a turn of the event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    async def get(self, read: Callable[[], T]) -> T:
        """The result of `read`, which runs in a thread. Raises what it raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._begin, loop)
        self._waiting.append((read, future))
        return await future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, self._waiting = self._waiting, []
        wanted = [(read, future) for read, future in waiting if not future.done()]
        work = loop.run_in_executor(None, _results, [read for read, _ in wanted])
        work.add_done_callback(lambda done: _hand_out(done, [future for _, future in wanted]))


def _results(reads: list[Callable[[], Any]]) -> list[tuple[Any, Exception | None]]:
    """The result or the error of each."""
    results: list[tuple[Any, Exception | None]] = []
    for read in reads:
        try:
            results.append((read(), None))
        except Exception as error:  # noqa: BLE001 - it is raised in whoever has asked
            results.append((None, error))
    return results


def _hand_out(done: "asyncio.Future[list[tuple[Any, Exception | None]]]", futures: "list[asyncio.Future[Any]]") -> None:
    if done.cancelled():
        for future in futures:
            future.cancel()
        return
    for future, (result, error) in zip(futures, done.result(), strict=True):
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
