"""BackgroundTasks of our own."""

import asyncio
import logging

import pytest

from crishim.errors import Unavailable
from crishim.service.locks import BackgroundTasks


async def test_bug_in_a_task_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error in a background task is logged with its traceback; a CrishimError is no bug."""

    async def fail(error: Exception) -> None:
        raise error

    tasks = BackgroundTasks()
    ended = {tasks.spawn(fail(KeyError("x")), "wait for c1"), tasks.spawn(fail(Unavailable("away")), "wait for c2")}
    await asyncio.wait(ended)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "wait for c1" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError
