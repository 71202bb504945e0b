"""Moves of processes between cgroups, foreseen.

The first one after a rest waits until the kernel has seen all of its processors idle for a moment (RCU's grace period: some
10 ms), and all that is asked of cgroups meanwhile waits with it; those that follow soon do not. A runtime makes such a move for
every container and every exec, after some 10 ms of getting ready. So both are to pass at once.
"""

import asyncio

from crishim.linux.cgroups import Cgroups


class CgroupWarmup:
    """Has the wait for the next move begin now."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._waiting: asyncio.Future[None] | None = None

    def soon(self) -> None:
        """A process will be moved soon. Returns at once; however often it is called, one thread waits."""
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.get_running_loop().run_in_executor(None, self._cgroups.move_to_own)
