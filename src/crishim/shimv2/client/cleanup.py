"""Ends a shim's process, identified by pid and start time, and deletes a task from a shim with retries and time limits."""

import asyncio
import contextlib
import logging
import os
import select
import signal
import stat
from pathlib import Path
from typing import Any, Final

from crishim.errors import CrishimError, DeadlineExceeded, NotFound, Unavailable
from crishim.interfaces.oci_runtime import OciStatus
from crishim.interfaces.seats import Clock
from crishim.linux import processes
from crishim.shimv2.client.connection import ShimLink
from crishim.shimv2.client.task import ShimTask
from crishim.shimv2.wire.messages import STATUSES


def born(pid: int) -> int:
    """The start time of a process, in clock ticks after the boot, which distinguishes processes with the same pid. 0 if it
    does not exist.
    """
    process = processes.read(pid)
    return 0 if process is None else process.identity.start


def end_process(pid: int, since: int) -> bool:
    """Kill a process that started at `since` and wait for its end; return whether it existed. Blocks for up to 5 s."""
    if pid <= 1 or not since:
        return False
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if born(pid) != since:
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], 5.0)
            return True
        finally:
            os.close(handle)
    return False


def end_shim(pid: int, since: int, bundle: Path) -> bool:
    """End a shim; return whether it existed. A shim with an unknown pid is searched by its working folder, the sandbox's
    bundle. Blocks.
    """
    if pid:
        return end_process(pid, since)
    ended = [end_process(process.pid, process.start) for process in working_in(bundle)]
    return any(ended)


def working_in(folder: Path) -> list[processes.Identity]:
    """The processes with this working folder, which for a shim is its first bundle; never this process."""
    target = os.path.realpath(folder)
    identities = []
    for (
        pid,
        process,
    ) in (
        processes.all_processes().items()
    ):  # the identity is read before the folder, so that a later process with the pid is not killed
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd") == target and pid != os.getpid():  # noqa: PTH115 - one look for each process
                identities.append(process.identity)
    return identities


def remove_socket(address: str) -> None:
    """Remove a dead shim's socket, if it is in the file system."""
    path = Path(address.removeprefix("unix://"))
    with contextlib.suppress(OSError):
        if path.is_absolute() and stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


_log = logging.getLogger(__name__)

_KILL: Final = 9

_KILLED_WITHIN: Final = 10.0
_CREATED_WITHIN: Final = 0.5
_FREED_WITHIN: Final = 5.0
"""Seconds for a killed task to end, for a task that was never started to end, and for retries of a Delete that is refused too
early.
"""


async def free(link: ShimLink, task: ShimTask, clock: Clock) -> bool:
    """Kill a task if it runs, and delete it; return whether the shim knew it.

    Raises `Unavailable` if the shim is lost meanwhile, and the shim's errors.
    """
    await task.settle(link.timeout)
    try:
        status = STATUSES.get((await link.state(task.id)).status)
    except NotFound:
        return False
    if status is OciStatus.PAUSED:
        await link.resume(task.id)
    if status is not OciStatus.STOPPED:
        # Also for a task that was only created: runc's shim takes two seconds to delete it, unless it has ended before.
        await _kill(link, task, must_end=status is not OciStatus.CREATED)
    await _delete(link, task.id, clock)
    return True


async def _kill(link: ShimLink, task: ShimTask, *, must_end: bool) -> None:
    """Kill a task, and wait for its end or the shim's. A task that was never started may report no end."""
    task.killed = True
    try:
        await link.kill(task.id, _KILL, everyone=True)
    except NotFound:
        return
    except (Unavailable, DeadlineExceeded):
        raise
    except CrishimError as error:
        _log.debug("%s cannot be killed: %s", task.id, error)
        if not must_end:
            return
    either: set[asyncio.Future[Any]] = {task.end, asyncio.ensure_future(link.ended())}
    timeout = _KILLED_WITHIN if must_end else _CREATED_WITHIN
    done, _ = await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for waiting in either - {task.end}:
        waiting.cancel()
    if must_end and not done:
        raise DeadlineExceeded(f"{task.id} has not ended after SIGKILL")


async def _delete(link: ShimLink, task_id: str, clock: Clock) -> None:
    """Delete, with retries: kata reports an exit before it accepts Delete."""
    give_up = clock.monotonic() + _FREED_WITHIN
    pause = 0.02
    while True:
        try:
            await link.delete(task_id)
        except NotFound:
            return
        except (Unavailable, DeadlineExceeded):
            raise
        except CrishimError as error:
            if clock.monotonic() > give_up:
                raise
            _log.debug("%s cannot be deleted yet: %s", task_id, error)
            await asyncio.sleep(pause)
            pause *= 1.5
        else:
            return
