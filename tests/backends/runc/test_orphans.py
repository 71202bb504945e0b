"""Orphans: who collects whom."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from crishim import proc
from crishim.backends.runc.exec import AdoptedChild
from crishim.backends.runc.orphans import OrphanReaper


def child(code: int) -> int:
    """A child that nobody of asyncio's knows, and that has ended."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}"], os.environ)
    while (process := proc.read(pid)) is not None and not process.ended:
        pass
    return pid


def sleeper() -> int:
    """A child that nobody of asyncio's knows, and that lives."""
    return os.posix_spawn("/bin/sleep", ["sleep", "600"], os.environ)


async def test_who_is_nobody_s_is_collected() -> None:
    """A dead child that is still there at a second look is collected."""
    orphans = OrphanReaper()
    pid = child(0)
    with orphans.attentive():
        while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240 - the reaper tells nobody
            await asyncio.sleep(0.01)
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - it does not wait


async def test_an_exit_that_somebody_wants_is_left_to_him() -> None:
    """However late somebody asks, an adopted child's exit is there, whichever runtime of this process collects orphans."""
    orphans = OrphanReaper()
    pid, other = child(7), child(0)
    adopted = AdoptedChild(pid, OrphanReaper())
    with orphans.attentive():
        while Path(f"/proc/{other}").exists():  # noqa: ASYNC110, ASYNC240 - as above
            await asyncio.sleep(0.01)
    assert 7 == (await adopted.exit()).code


async def test_orphans_are_collected_as_long_as_a_watched_child_lives() -> None:
    """Whoever lives in our own PID namespace may leave us orphans at any time, and nobody pokes then."""
    living = sleeper()
    orphans = OrphanReaper()
    adopted = AdoptedChild(living, orphans)
    orphans.watch(living)
    await asyncio.sleep(0.3)  # the looks after the poke are over
    pid = child(0)
    while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240 - as above
        await asyncio.sleep(0.01)
    os.kill(living, signal.SIGKILL)
    assert 137 == (await adopted.exit()).code
