"""Starts the kernel's wait for a move between cgroups early.

The first move after a pause waits for an RCU grace period (some 10 ms), and other cgroup operations wait with it; moves soon
after do not wait. A runtime makes such a move for each container and each exec, after some 10 ms of preparation: a move that is
made before lets both waits overlap.
"""

import asyncio

from crishim.linux.cgroups import Cgroups


class CgroupWarmup:
    """Makes a move between cgroups ahead of the runtime's."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._waiting: asyncio.Future[None] | None = None

    def soon(self) -> None:
        """A runtime will move a process soon. Returns at once; one thread at a time waits, however many calls there are."""
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.get_running_loop().run_in_executor(None, self._cgroups.move_to_own)
