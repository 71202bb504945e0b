"""The controller against crishim's fakes: once over the dispatcher, once over a real socket. No test sleeps.

`stage.next()` waits for the keeper's next line; `stage.next_in()` advances the fake clock meanwhile.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from keeper import Keeper, code_of, over_socket

from crishim.cri import Dispatcher
from crishim.errors import InvalidArgument
from crishim.server import serve
from crishim.testing import FakeBackend, Harness, dropping, failing, hanging
from crishim.testing.harness import IMAGE


class Stage:
    def __init__(self, world: Harness, cri: Any) -> None:
        self.world = world
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.keeper = Keeper(cri, world.clock, self.lines.put_nowait)
        self.task: asyncio.Task[None]

    async def next(self) -> str:
        """The keeper's next line, without advancing the clock."""
        return await asyncio.wait_for(self.lines.get(), 10)

    async def next_in(self, seconds: float) -> tuple[str, float]:
        """The keeper's next line, and the second in which it came; the clock is advanced until then."""
        for second in range(int(seconds) + 1):
            await self.answered()
            if not self.lines.empty():
                return self.lines.get_nowait(), second
            await self.world.clock.advance(1)
        raise AssertionError("no line was reported")

    async def answered(self) -> None:
        """Wait until the keeper waits only for the clock, or for a response that does not come."""
        for _ in range(200):
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
            if not self.lines.empty():
                return


@pytest.fixture(params=["dispatcher", "socket"])
def staged(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """A function that runs a keeper over a backend."""
    return lambda backend=None: Running(request.param, tmp_path, backend)


class Running:
    def __init__(self, transport: str, folder: Path, backend: Any) -> None:
        self._transport, self._folder, self._backend = transport, folder, backend
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Stage:
        world = await self._stack.enter_async_context(Harness(self._backend))
        dispatch: Any = Dispatcher(world.services)
        if self._transport == "socket":
            await self._stack.enter_async_context(serve(dispatch, self._folder / "cri.sock"))
            channel = grpc.aio.insecure_channel(f"unix:{self._folder / 'cri.sock'}")
            dispatch = over_socket(await self._stack.enter_async_context(channel))
        stage = Stage(world, dispatch)
        stage.task = asyncio.create_task(stage.keeper.keep(IMAGE, ["sleep"]))
        self._stack.push_async_callback(self._end, stage.task)
        return stage

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @staticmethod
    async def _end(task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait({task})


async def test_a_container_that_ends_is_started_again(staged: Callable[..., Any]) -> None:
    """A scripted end is observed within a second, reported with its code, and followed by a pause and a restart."""
    async with staged() as stage:
        assert await stage.next() == "started"
        stage.world.fake.exits("main", 137, oom=True)
        assert (await stage.next_in(2))[0] == "ended 137 OOMKilled"
        assert await stage.next() == "pause 2"
        line, seconds = await stage.next_in(5)
        assert (line, seconds) == ("started", 2)


async def test_pauses_double_and_are_forgotten(staged: Callable[..., Any]) -> None:
    """Consecutive failures make the pauses longer; a success makes them short again."""
    pauses = []
    async with staged() as stage:
        for code in (1, 1, 1, 0, 1):
            assert (await stage.next_in(20))[0] == "started"
            stage.world.fake.exits("main", code)
            assert (await stage.next_in(5))[0].startswith(f"ended {code}")
            pauses.append(await stage.next())
    assert pauses == ["pause 2", "pause 4", "pause 8", "pause 1", "pause 2"]


async def test_an_engine_that_is_away_is_asked_again(staged: Callable[..., Any]) -> None:
    """While the backend is unavailable the keeper retries, and then continues."""
    gone = asyncio.Event()
    gone.set()
    async with staged(dropping(FakeBackend(logs_to_disk=False), "create_container", gone)) as stage:
        assert await stage.next() == "away"
        gone.clear()
        while (line := (await stage.next_in(60))[0]) == "away":
            pass
        assert line == "started"


async def test_a_call_that_hangs_is_given_up(staged: Callable[..., Any]) -> None:
    """A start that never returns is retried after the call's timeout of ten seconds."""
    async with staged(hanging(FakeBackend(logs_to_disk=False), "start_container")) as stage:
        assert await stage.next_in(30) == ("no answer", 10)


async def test_a_wrong_program_ends_the_keeper(staged: Callable[..., Any]) -> None:
    """A permanent error ends the keeper."""
    refusal = InvalidArgument("config.command", "no such program")
    async with staged(failing(FakeBackend(logs_to_disk=False), "start_container", error=refusal)) as stage:
        await asyncio.wait({stage.task}, timeout=10)
        assert code_of(stage.task.exception()) == refusal.code
        assert stage.lines.empty()
