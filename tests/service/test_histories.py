"""Random histories: two pods, three clients that disconnect and retry, restarts of the server, on a loop of seeded order.

Every history must end with CRI showing what the strict fake holds, nothing stuck, and nothing left after the removals.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from crishim.config import Deadlines
from crishim.errors import CrishimError
from crishim.model.container import ContainerFilter, ContainerState
from crishim.model.sandbox import PodSandboxFilter
from crishim.model.values import ContainerId, SandboxId
from crishim.service.backends import Settings
from crishim.store.memory import MemoryStore
from crishim.testing.fakes import FakeBackend
from crishim.testing.harness import Harness, container_config, sandbox_config

HISTORIES = 2000
ACTIONS = 10
VERBS = (
    "start_sandbox",
    "stop_sandbox",
    "remove_sandbox",
    "create_container",
    "start_container",
    "kill_container",
    "remove_container",
)


class SeededLoop(asyncio.SelectorEventLoop):
    """A loop with a time of its own that runs what is ready in random order, and raises where nothing can happen any more."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._now = 0.0
        super().__init__()

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise AssertionError("stuck: nothing is ready, and nothing will be")
            self._now = max(self._now, scheduled[0]._when)
        waiting = list(ready)
        self._chance.shuffle(waiting)
        ready.clear()
        ready.extend(waiting)
        super()._run_once()  # type: ignore[misc]


class LoopClock:
    """The loop's own time."""

    def now(self) -> int:
        return 1_700_000_000_000_000_000 + int(asyncio.get_running_loop().time() * 1e9)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def slow(verb: Callable[..., Awaitable[Any]], chance: random.Random) -> Callable[..., Awaitable[Any]]:
    """A verb that takes a while before and after its effect."""

    async def call(*args: Any) -> Any:
        await asyncio.sleep(chance.uniform(0, 0.01))
        answer = await verb(*args)
        await asyncio.sleep(chance.uniform(0, 0.01))
        return answer

    return call


class History:
    """One history over one node."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.fake = FakeBackend(logs_to_disk=False)
        for verb in VERBS:
            setattr(self.fake, verb, slow(getattr(self.fake, verb), chance))
        self.world = Harness(self.fake, store=MemoryStore(), clock=LoopClock())
        self.world.settings = Settings(
            runtime_version="1.0.0", boot_id="b", deadlines=Deadlines(exit_after_kill=1.0, kill_container=0.5, closing=1.0)
        )
        self.sandboxes: list[SandboxId] = []
        self.containers: list[ContainerId] = []

    async def run(self) -> None:
        """Runs of the server, each with three clients; then quiet, a comparison, and the removal of everything."""
        for _ in range(self.chance.randint(0, 2)):
            async with self.world:
                await asyncio.gather(*(self._client() for _ in range(3)))
        async with self.world:
            await asyncio.gather(*(self._client() for _ in range(3)))
            await asyncio.sleep(5)  # what clients have given up goes on; no recovery comes before the comparison
            await self._compare()
            for sandbox_id in [entry.item.id for entry in await self.world.services.sandboxes.list(PodSandboxFilter())]:
                await self.world.services.sandboxes.remove(sandbox_id)
            table = self.world.services._core.table
            left = (self.fake.sandboxes, self.fake.containers, table.sandboxes, table.containers, self.world.network.addresses)
            assert ({}, {}, {}, {}, {}) == left
            assert (0, 0) == (len(table.sandbox_names), len(table.container_names))
        assert ((), ()) == _ids(await self.world._parts["store"].load())

    async def _client(self) -> None:
        for _ in range(ACTIONS):
            call = asyncio.ensure_future(self._act())
            if self.chance.random() < 0.3:
                await asyncio.sleep(self.chance.uniform(0, 0.02))
                call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            if call.done() and not call.cancelled() and (error := call.exception()) is not None:
                assert isinstance(error, CrishimError), error

    async def _act(self) -> None:
        services, chance = self.world.services, self.chance
        name = chance.choice(("run", "create", "create", "start", "start", "stop", "remove", "stop pod", "remove pod"))
        if name == "run":
            self.sandboxes.append(await services.sandboxes.run(sandbox_config(f"pod{chance.randrange(2)}"), ""))
        elif name == "create" and self.sandboxes:
            config = container_config(f"main{chance.randrange(2)}", "sleep")
            self.containers.append(await services.containers.create(chance.choice(self.sandboxes), config, None))
        elif name == "start" and self.containers:
            await services.containers.start(chance.choice(self.containers[-3:]))
        elif name == "stop" and self.containers:
            await services.containers.stop(chance.choice(self.containers[-3:]), chance.choice((0, 1)))
        elif name == "remove" and self.containers:
            await services.containers.remove(chance.choice(self.containers[-3:]))
        elif name == "stop pod" and self.sandboxes:
            await services.sandboxes.stop(chance.choice(self.sandboxes))
        elif name == "remove pod" and self.sandboxes:
            await services.sandboxes.remove(chance.choice(self.sandboxes))

    async def _compare(self) -> None:
        shown = {entry.item.id: entry.item.state for entry in await self.world.services.containers.list(ContainerFilter())}
        states = {name: container.state for name, container in self.fake.containers.items()}
        runs = {name for name, state in states.items() if state is ContainerState.RUNNING}
        assert runs == {name for name, state in shown.items() if state is ContainerState.RUNNING}
        assert states.keys() == shown.keys()
        table = self.world.services._core.table
        assert [] == [entry.id for entry in table.sandboxes.values() if entry.state is None]
        assert [] == [entry.id for entry in table.containers.values() if entry.state is None]


def _ids(records: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(record.id for record in records.sandboxes), tuple(record.id for record in records.containers)


@pytest.mark.parametrize("part", range(4))
def test_histories(part: int, record_property: Callable[[str, object], None]) -> None:
    """Whatever clients do concurrently and abandon, CRI shows the actual state, and removals leave nothing."""
    for seed in range(part * HISTORIES // 4, (part + 1) * HISTORIES // 4):
        loop = SeededLoop(random.Random(seed))
        try:
            loop.run_until_complete(asyncio.wait_for(History(random.Random(seed + 1_000_000)).run(), 3600))
        except BaseException as error:
            raise AssertionError(f"history {seed}") from error
        finally:
            loop.close()
    record_property("histories", HISTORIES // 4)
