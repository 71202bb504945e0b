"""Waiting for processes that need not be our children, and for what they say."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path


async def ended(pid: int, expected: Callable[[], bool] = lambda: True) -> None:
    """Return when the process has ended; at once if there is none, as of pid 0.

    `expected` tells whether the process that has the pid now is the one that is meant. It is called when the process is held
    open, so that no other can take the pid any more.
    """
    if not pid:
        return
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if expected():
            await _readable(fd)
    finally:
        os.close(fd)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(fd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(fd)


def read_pid(path: Path) -> int:
    """The pid in a pid file; 0 where there is none."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def is_running(pid: int, mark: str) -> bool:
    """Whether the process with this pid runs and its command line holds `mark`: pids are used again."""
    try:
        return bool(pid) and mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


async def read_pipe(fd: int, *, line: bool = False) -> bytes:
    """Read a pipe to its end, or one line of it, and close it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    try:
        return await (reader.readline() if line else reader.read())
    finally:
        transport.close()
