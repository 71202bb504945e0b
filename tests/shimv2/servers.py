"""What the containerd and the CRI-O of a test share: a client that waits for them, and the end of what they leave."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from crishim.linux.mounts import unmount_below
from crishim.play import CallError, CriClient, connect
from tests.node.world import processes


@contextlib.asynccontextmanager
async def answering(endpoint: Path) -> AsyncIterator[CriClient]:
    """A client of a CRI server, once that answers."""
    async with connect(f"unix://{endpoint}") as client:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(CallError):
                    await client.status()
                    break
                await asyncio.sleep(0.05)
        yield client


def leave_nothing(folder: Path, state: Path) -> None:
    """Kill what has the folder in its command line, and free the containers of the shim's `state` and the mounts."""
    for pid, _ in processes(str(folder)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for file in (state / "runc").glob("*/*/state.json"):
        command = ["runc", "--root", str(file.parents[1]), "delete", "--force", file.parent.name]
        subprocess.run(command, check=False, capture_output=True)
    unmount_below(folder)
