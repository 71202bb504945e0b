"""Having a shim let go of one task, whatever it does, and however much time the shim takes over it."""

import asyncio
import logging
from typing import Any, Final

from crishim.errors import CrishimError, DeadlineExceeded, NotFound, Unavailable
from crishim.interfaces.oci_runtime import OciStatus
from crishim.interfaces.seams import Clock
from crishim.shimv2.client.connection import ShimLink
from crishim.shimv2.client.task import HeldTask
from crishim.shimv2.wire.messages import STATUSES

_log = logging.getLogger(__name__)

_KILL: Final = 9

_KILLED_WITHIN: Final = 10.0
_CREATED_WITHIN: Final = 0.5
_FREED_WITHIN: Final = 5.0
"""Seconds for a killed task to end, the same for one that was never started, and for a Delete that is refused too early."""


async def free(link: ShimLink, task: HeldTask, clock: Clock) -> bool:
    """Kill a task if it runs, and delete it; whether the shim knew it.

    Raises `Unavailable` if the shim is lost meanwhile, and what it refuses with.
    """
    await task.settle(link.patience)
    try:
        status = STATUSES.get((await link.state(task.id)).status)
    except NotFound:
        return False
    if status is OciStatus.PAUSED:
        await link.resume(task.id)
    if status is not OciStatus.STOPPED:
        # Also one that only was created: runc's shim deletes such a one after two seconds, unless it has ended before.
        await _kill(link, task, must_end=status is not OciStatus.CREATED)
    await _delete(link, task.id, clock)
    return True


async def _kill(link: ShimLink, task: HeldTask, *, must_end: bool) -> None:
    """Kill a task, and wait for its end, or its shim's. One that was never started need not know of any end."""
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
    patience = _KILLED_WITHIN if must_end else _CREATED_WITHIN
    done, _ = await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    for waiting in either - {task.end}:
        waiting.cancel()
    if must_end and not done:
        raise DeadlineExceeded(f"{task.id} does not end, though it was killed")


async def _delete(link: ShimLink, task_id: str, clock: Clock) -> None:
    """Delete, again and again for a while: kata tells an end before it is ready to let go."""
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
