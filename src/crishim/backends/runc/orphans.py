"""Orphans that became our children, because a runtime has left them to its subreaper.

Whoever is dead and not collected keeps its PID namespace from ending, so they are collected soon. Some have somebody who wants
their exit, and are spared. Children that asyncio has started must be left to asyncio, which collects each within one turn of
its loop: only who is still there at a second look is nobody's.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from crishim import proc

_PAUSE = 0.05
_LOOKS = 4
_REST = 1.0
"""Seconds between two looks while children live whose own orphans come to us whenever they like."""


class OrphanReaper:
    """Collects dead orphans: for a moment after each `poke`, within `attentive`, and now and then while any are `watched`.

    There may be several, one for each runtime; who is spared by one is spared by all, since their children are the process's.
    """

    _spared: ClassVar[set[int]] = set()
    _watched: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._poked = asyncio.Event()
        self._attentive = 0

    def spare(self, pid: int) -> None:
        """Leave a child to somebody else to collect."""
        self._spared.add(pid)

    def watch(self, pid: int) -> None:
        """A child lives whose own orphans come to us, as long as it is spared."""
        self._watched.add(pid)
        self.poke()

    def release(self, pid: int) -> None:
        """It is collected."""
        self._spared.discard(pid)
        self._watched.discard(pid)

    @contextlib.contextmanager
    def attentive(self) -> Iterator[None]:
        """Somebody waits inside for orphans to be gone for good."""
        self._attentive += 1
        self.poke()
        try:
            yield
        finally:
            self._attentive -= 1

    def poke(self) -> None:
        """Somebody may have been orphaned just now."""
        self._poked.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._reap())

    async def _reap(self) -> None:
        before: set[int] = set()
        looks = 0
        while looks < _LOOKS or self._attentive or self._watched:
            if looks >= _LOOKS and not self._attentive:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REST):
                        await self._poked.wait()
            if self._poked.is_set():
                self._poked.clear()
                looks = 0
            await asyncio.sleep(_PAUSE)
            looks += 1
            dead = dead_children() - self._spared
            for pid in dead & before:
                _collect(pid)
            before = dead


def _collect(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def dead_children() -> set[int]:
    """The pids of our children that have ended and were not collected."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            for pid in map(int, (task / "children").read_text(encoding="ascii").split()):
                if (child := proc.read(pid)) is not None and child.ended:
                    found.add(pid)
    return found
