"""Orphans: who collects whom."""

import asyncio
import os
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
    """However late somebody asks, an adopted child's exit is there; afterwards its pid is anybody's."""
    orphans = OrphanReaper()
    pid, other = child(7), child(0)
    adopted = AdoptedChild(pid, orphans)
    with orphans.attentive():
        while Path(f"/proc/{other}").exists():  # noqa: ASYNC110, ASYNC240 - as above
            await asyncio.sleep(0.01)
    assert 7 == (await adopted.exit()).code
    assert set() == orphans.spared
