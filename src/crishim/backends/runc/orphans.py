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

_PAUSE = 0.05
_LOOKS = 4


class OrphanReaper:
    """Collects dead orphans for a moment after each `poke`, and all the while within `attentive`."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._poked = False
        self._attentive = 0
        self.spared: set[int] = set()
        """The pids of those that somebody else collects."""

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
        self._poked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._reap())

    async def _reap(self) -> None:
        before: set[int] = set()
        looks = 0
        while looks < _LOOKS or self._attentive:
            if self._poked:
                self._poked, looks = False, 0
            await asyncio.sleep(_PAUSE)
            looks += 1
            dead = dead_children() - self.spared
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
            for pid in (task / "children").read_text(encoding="ascii").split():
                with contextlib.suppress(OSError):
                    state = (
                        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
                    )
                    if state == "Z":
                        found.add(int(pid))
    return found
