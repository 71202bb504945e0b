"""Time, ids and the boot of the machine we really run on; tests put fakes from `crishim.testing` in their place."""

import asyncio
import secrets
import time
from pathlib import Path

from crishim.model.ids import ContainerId, SandboxId


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
        return SandboxId(secrets.token_hex(32))

    def container_id(self) -> ContainerId:
        """A new container id."""
        return ContainerId(secrets.token_hex(32))


def boot_id() -> str:
    """The kernel's name for this boot; another one after each reboot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
