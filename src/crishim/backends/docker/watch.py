"""The engine's events: one stream, shared by all waits for a container.

A wait checks the container first, and again after every event of it; events only tell when to check. So the content of an
event matters only for the exit of a container that cannot be inspected any more. When the stream breaks, all waits raise
`Unavailable`; the next wait opens it again.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from crishim.backends.docker.engine import Engine
from crishim.backends.docker.observed import OWNER
from crishim.errors import CrishimError, Unavailable
from crishim.interfaces.seats import Clock
from crishim.interfaces.tracing import outside_rpcs

T = TypeVar("T")
Event = Mapping[str, Any]

_OVERLAP: Final = 2
"""Seconds before its opening from which the stream's events are requested: the engine responds before it listens."""

_SUBJECTS: Final = ("die", "destroy", "start")


class EventWatch:
    """Waits for changes of the containers of one owner."""

    def __init__(self, engine: Engine, clock: Clock, owner: str) -> None:
        self._engine = engine
        self._clock = clock
        self._owner = owner
        self._waiters: dict[str, set[asyncio.Queue[Event | CrishimError]]] = {}
        self._pump: asyncio.Task[None] | None = None
        self._open: asyncio.Future[None] | None = None

    async def until(self, name: str, look: Callable[[Event], Awaitable[T | None]]) -> T:
        """The first result of `look` that is not None, called now (with an empty event) and after each event of the container.
        Raises what `look` raises, and `Unavailable`.
        """
        events: asyncio.Queue[Event | CrishimError] = asyncio.Queue()
        with self._listening(name, events):
            await self._opened()
            event: Event | CrishimError = {}
            while True:
                if isinstance(event, CrishimError):
                    raise event
                result = await look(event)
                if result is not None:
                    return result
                event = await events.get()

    async def close(self) -> None:
        """Stop watching; waits raise `Unavailable`."""
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()
            await asyncio.wait({pump})

    @contextlib.contextmanager
    def _listening(self, name: str, events: "asyncio.Queue[Event | CrishimError]") -> Any:
        self._waiters.setdefault(name, set()).add(events)
        try:
            yield
        finally:
            waiters = self._waiters[name]
            waiters.discard(events)
            if not waiters:
                del self._waiters[name]

    async def _opened(self) -> None:
        if self._pump is None or self._pump.done():
            self._open = asyncio.get_running_loop().create_future()
            self._pump = asyncio.create_task(self._follow(self._open), name="the engine's events", context=outside_rpcs())
        assert self._open is not None
        await asyncio.shield(self._open)

    async def _follow(self, opened: "asyncio.Future[None]") -> None:
        failure: CrishimError = Unavailable("the engine's events have ended")
        try:
            async for event in self._events(opened):
                name = (event.get("Actor") or {}).get("Attributes", {}).get("name", "")
                for events in self._waiters.get(name, ()):
                    events.put_nowait(event)
        except CrishimError as error:
            failure = error if isinstance(error, Unavailable) else Unavailable(str(error))
        finally:
            if not opened.done():
                opened.set_exception(failure)
                opened.exception()  # marks the error as seen, since nothing may be waiting
            for waiters in self._waiters.values():
                for events in waiters:
                    events.put_nowait(failure)

    async def _events(self, opened: "asyncio.Future[None]") -> AsyncIterator[Event]:
        filters = json.dumps({"type": ["container"], "event": list(_SUBJECTS), "label": [f"{OWNER}={self._owner}"]})
        since = self._clock.now() // 1_000_000_000 - _OVERLAP
        rest = b""
        async with self._engine.stream("GET", "/events", query={"since": since, "filters": filters}) as pieces:
            opened.set_result(None)
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
