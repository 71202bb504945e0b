"""The environment of one check."""

import asyncio
from pathlib import Path

from crishim.interfaces.backend import Backend, BackendContext
from crishim.system import SystemClock
from crishim.testing import FakeBackend
from crishim.testing.conformance.candidate import Candidate
from crishim.testing.fakes import FakeNamespaces


class Recorded(FakeBackend):
    """A fake that records its closing."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.recorded = calls

    async def close(self) -> None:
        self.recorded.append("SupportsClose.close")


def recorded(place: Path, calls: list[str]) -> Candidate:
    """A candidate of which every construction and every closing is recorded."""

    async def make(_: BackendContext) -> Backend:
        calls.append("make")
        return Recorded(calls)

    async def close(_: Backend) -> None:
        calls.append("close")

    context = BackendContext(state=place, runtime_state=place, clock=SystemClock(), namespaces=FakeNamespaces())
    return Candidate(make=make, close=close, context=context, scratch=place)


def test_a_restart_disconnects(tmp_path: Path) -> None:
    """A backend that claims SupportsClose is closed by `close` before a restart, and by its own `close` at the end."""
    calls: list[str] = []

    async def check() -> None:
        async with recorded(tmp_path, calls).world([]) as world:
            await world.restart()

    asyncio.run(check())
    assert ["make", "close", "make", "SupportsClose.close"] == calls


def test_a_closed_backend_is_not_closed_again(tmp_path: Path) -> None:
    """`close_and_restart` calls `SupportsClose.close`, and not `close` of the candidate on the closed backend."""
    calls: list[str] = []

    async def check() -> None:
        async with recorded(tmp_path, calls).world([]) as world:
            await world.close_and_restart()

    asyncio.run(check())
    assert ["make", "SupportsClose.close", "make", "SupportsClose.close"] == calls
