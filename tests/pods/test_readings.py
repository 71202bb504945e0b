import asyncio
import threading

import pytest

from crishim.pods.readings import Readings


async def test_one_thread_reads_what_one_turn_wants() -> None:
    """Readings that are wanted in one turn of the event loop run on one thread, apart from the loop's own."""
    readings = Readings()
    threads = await asyncio.gather(*(readings.get(threading.get_ident) for _ in range(50)))
    assert (1, False) == (len(set(threads)), threading.get_ident() in threads)


async def test_an_error_is_that_of_its_reading() -> None:
    """A reading that fails is an error for whoever wanted it; a caller that is cancelled does not disturb the others."""
    readings = Readings()
    cancelled = asyncio.create_task(readings.get(lambda: "unused"))
    failing = asyncio.create_task(readings.get(lambda: 1 // 0))
    good = asyncio.create_task(readings.get(lambda: "good"))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(ZeroDivisionError):
        await failing
    assert "good" == await good
    assert "again" == await readings.get(lambda: "again")


async def test_a_caller_that_is_cancelled_during_the_reading() -> None:
    """The results that arrive after a cancellation reach the others."""
    readings, go = Readings(), threading.Event()
    slow = asyncio.create_task(readings.get(go.wait))
    good = asyncio.create_task(readings.get(lambda: "good"))
    for _ in range(3):
        await asyncio.sleep(0)
    slow.cancel()
    go.set()
    assert "good" == await good
