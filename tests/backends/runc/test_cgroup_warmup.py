"""Moves between cgroups, foreseen."""

import asyncio
import threading
from pathlib import Path

from crishim.backends.runc.cgroup_warmup import CgroupWarmup
from crishim.linux.cgroups import Cgroups


class SlowCgroups(Cgroups):
    """Blocks every move until `leave` is set; `waits` counts the blocked moves."""

    def __init__(self) -> None:
        super().__init__(v2=True, root=Path("/nowhere"))
        self.leave = threading.Event()
        self.waits = 0

    def move_to_own(self) -> None:
        self.waits += 1
        self.leave.wait(10)


async def test_however_many_moves_are_foreseen_one_thread_waits() -> None:
    """`soon` returns at once, and starts no second thread; after a pause there is a wait again."""
    cgroups = SlowCgroups()
    moves = CgroupWarmup(cgroups)
    for _ in range(100):
        moves.soon()
        await asyncio.sleep(0)
    cgroups.leave.set()
    assert moves._waiting is not None
    await moves._waiting
    assert 1 == cgroups.waits
    moves.soon()
    await moves._waiting
    assert 2 == cgroups.waits
