"""How long the event loop of a serving node keeps others waiting while it has work: the delay of a timer, in milliseconds.

Each line is one kind of load, measured in this process for some seconds beside an idle loop of the same run. Nothing is
asserted.

    python bench/loop.py
"""

import asyncio
import contextlib
import io
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs

from crishim.images.unpacking import Workers
from crishim.linux.processes import Identity, lives
from crishim.logs.stdio import ContainerStdio
from crishim.system import SystemClock

SECONDS = 5.0
EVERY = 0.001
FILES = 20_000
PROCESSES = 500


@attrs.frozen
class Options:
    """The streams of a container without stdin."""

    log_path: str
    id: str = "loud"
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False


@contextlib.asynccontextmanager
async def idle(folder: Path) -> AsyncIterator[None]:
    """No load."""
    del folder
    yield


@contextlib.asynccontextmanager
async def unpacking(folder: Path) -> AsyncIterator[None]:
    """Three layers of many small files are unpacked again and again, each in a worker process."""
    blob = folder / "layer.tar"
    with tarfile.open(blob, "w") as tar:
        for number in range(FILES):
            member = tarfile.TarInfo(f"d{number % 100}/f{number}")
            member.size = 100
            tar.addfile(member, io.BytesIO(bytes(100)))
    workers = Workers()

    async def again(name: str) -> None:
        for turn in range(1000):
            await workers.unpack(blob, folder / f"{name}{turn}")

    jobs = [asyncio.create_task(again(name)) for name in ("a", "b", "c")]
    yield
    await ended(jobs)


@contextlib.asynccontextmanager
async def yes(folder: Path) -> AsyncIterator[None]:
    """One container writes lines of two bytes as fast as it can, and its log is cut off when it has grown."""
    log = folder / "log"
    stdio = ContainerStdio(Options(str(log)), SystemClock())
    ends = stdio.open()
    with subprocess.Popen(["yes"], stdin=ends.stdin, stdout=ends.stdout, stderr=ends.stderr) as process:
        stdio.started()

        async def cut() -> None:
            while True:
                await asyncio.sleep(0.05)
                os.truncate(log, 0)

        cutting = asyncio.create_task(cut())
        yield
        process.kill()
    await ended([cutting])
    await stdio.drained(0)
    await stdio.close()


@contextlib.asynccontextmanager
async def looking(folder: Path) -> AsyncIterator[None]:
    """All processes of a node with five hundred more of them are looked through, over and over."""
    del folder
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(PROCESSES)]

    async def again() -> None:
        while True:
            await lives((Identity(1, 0),))

    job = asyncio.create_task(again())
    yield
    await ended([job])
    await asyncio.to_thread(end, processes)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kill, and wait."""
    for process in processes:
        process.kill()
        process.wait()


async def ended(jobs: list[asyncio.Task[None]]) -> None:
    """Cancel, and wait."""
    for job in jobs:
        job.cancel()
    await asyncio.wait(jobs)


async def delays() -> list[float]:
    """By how many milliseconds a timer came late, over and over."""
    late: list[float] = []
    end = time.monotonic() + SECONDS
    while (before := time.monotonic()) < end:
        await asyncio.sleep(EVERY)
        late.append((time.monotonic() - before - EVERY) * 1000)
    return sorted(late)


LOADS: tuple[tuple[str, Callable[[Path], AbstractAsyncContextManager[None]]], ...] = (
    ("nothing", idle),
    ("three layers unpacked by workers", unpacking),
    ("a container that runs `yes`", yes),
    (f"{PROCESSES} more processes looked through", looking),
)


async def main() -> None:
    """Measure each load."""
    print(f"{'load':40} {'p50':>8} {'p99':>8} {'most':>8}")
    for name, load in LOADS:
        with tempfile.TemporaryDirectory(prefix="loop") as folder:
            async with load(Path(folder)):
                late = await delays()
        print(f"{name:40} {late[len(late) // 2]:8.2f} {late[len(late) * 99 // 100]:8.2f} {late[-1]:8.2f}")


if __name__ == "__main__":
    asyncio.run(main())
