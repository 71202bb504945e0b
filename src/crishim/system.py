"""Time and ids of the machine we really run on; tests put fakes from `crishim.testing` in their place."""

import asyncio
import os
import time

from crishim.model.values import ContainerId, SandboxId

__all__ = ["RandomIds", "SystemClock"]


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        """Nanoseconds since the epoch."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class RandomIds:
    """Ids of 64 hexadecimal digits."""

    def sandbox_id(self) -> SandboxId:
        """A new sandbox id."""
        return SandboxId(os.urandom(32).hex())

    def container_id(self) -> ContainerId:
        """A new container id."""
        return ContainerId(os.urandom(32).hex())
