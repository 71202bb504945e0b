"""Verbs that block the event loop."""

import asyncio
import logging
import time

import pytest

from crishim.errors import Aborted
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.model.values import ContainerId, SandboxId
from crishim.system import SystemClock
from crishim.testing import FakeBackend, Harness
from crishim.testing.doubles import settle

WARNING = "verb start_container of backend fake has blocked the event loop"


class Blocking(FakeBackend):
    """Starts sandboxes after a wait, and containers without giving way."""

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        await asyncio.sleep(0.4)
        return await super().start_sandbox(spec)

    async def start_container(self, container_id: ContainerId) -> None:
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - the fault
        await super().start_container(container_id)


async def test_a_verb_that_blocks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A verb that does not give way is warned about, with its name and duration; one that only takes long is not."""
    caplog.set_level(logging.WARNING)
    async with Harness(Blocking(logs_to_disk=False), clock=SystemClock()) as world:
        await world.run_container(await world.run_sandbox(), "main", "sleep")
    warned = [record.getMessage() for record in caplog.records if "blocked the event loop" in record.getMessage()]
    assert [True] == [message.startswith(WARNING) for message in warned]
    assert 300 <= float(warned[0].rpartition(" for ")[2].partition(" ms")[0])


async def test_a_cancellation_reaches_the_verb() -> None:
    """What cancels a verb that is measured reaches it as ever."""

    class Waiting(FakeBackend):
        cancelled = False

        async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            raise AssertionError

    backend = Waiting(logs_to_disk=False)
    async with Harness(backend) as world:
        running = asyncio.ensure_future(world.run_sandbox())
        await settle()
        (sandbox_id,) = world.services.known_sandboxes()
        await world.services.sandboxes.remove(SandboxId(sandbox_id))
        with pytest.raises(Aborted):
            await running
    assert backend.cancelled
