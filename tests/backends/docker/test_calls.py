"""One call at a time, and none cancelled half-way."""

import asyncio

import pytest

from crishim.backends.docker.engine import Calls
from crishim.errors import Unknown


async def test_cancelled_calls_run_on() -> None:
    """A cancelled caller leaves its call running, and the next call for the same container waits for it."""
    calls, gate, done = Calls(), asyncio.Event(), []

    async def make() -> None:
        await gate.wait()
        done.append("made")

    async def remove() -> None:
        done.append("removed")

    making = asyncio.create_task(calls.run("c", make))
    await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    removing = asyncio.create_task(calls.run("c", remove))
    await asyncio.sleep(0)
    gate.set()
    await removing
    assert ["made", "removed"] == done


async def test_failures_do_not_hold_up() -> None:
    """A call that fails after its caller was cancelled does not affect later ones; other containers never wait."""
    calls, gate = Calls(), asyncio.Event()

    async def fail() -> None:
        await gate.wait()
        raise Unknown("no")

    failing = asyncio.create_task(calls.run("c", fail))
    await asyncio.sleep(0)
    failing.cancel()
    await calls.settled("another")
    gate.set()
    await calls.settled("c")
    with pytest.raises(asyncio.CancelledError):
        await failing


async def test_answers_and_errors_reach_the_caller() -> None:
    """Waiting callers get the result of the call."""

    async def give() -> int:
        return 5

    async def fail() -> int:
        raise Unknown("no")

    calls = Calls()
    assert 5 == await calls.run("c", give)
    with pytest.raises(Unknown):
        await calls.run("c", fail)
