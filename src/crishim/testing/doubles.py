"""Test doubles for clock, ids, URLs, connections and observer."""

import asyncio
import heapq
import itertools

from crishim.errors import Code
from crishim.interfaces.seats import Observer
from crishim.model.process import StreamRequest
from crishim.model.values import ContainerId, SandboxId


class FakeClock:
    """A clock that stands still until `advance`. It begins at `start` nanoseconds after the epoch."""

    def __init__(self, start: int = 1_000_000_000_000_000_000) -> None:
        self._now = start
        self._start = start
        self._sleepers: list[tuple[int, int, asyncio.Event]] = []
        self._order = itertools.count()

    def now(self) -> int:
        """Nanoseconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since this clock was created."""
        return (self._now - self._start) / 1e9

    async def sleep(self, seconds: float) -> None:
        """Return once `advance` has passed `seconds`."""
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._now + int(seconds * 1e9), next(self._order), woken))
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Advance the time, and let the tasks that wake up run as far as they can."""
        end = self._now + int(seconds * 1e9)
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            woken.set()
            await settle()
        self._now = end

    @property
    def sleepers(self) -> int:
        """The number of tasks that sleep."""
        return len(self._sleepers)


async def settle(rounds: int = 50) -> None:
    """Let every task run until it waits for something other than the event loop."""
    for _ in range(rounds):
        await asyncio.sleep(0)


class FakeIds:
    """Sequential ids: 64 digits, sandboxes beginning with 5, containers with c."""

    def __init__(self) -> None:
        self._sandboxes = itertools.count(1)
        self._containers = itertools.count(1)

    def sandbox_id(self) -> SandboxId:
        """5000...1, 5000...2, ..."""
        return SandboxId(f"5{next(self._sandboxes):063x}")

    def container_id(self) -> ContainerId:
        """c000...1, c000...2, ..."""
        return ContainerId(f"c{next(self._containers):063x}")


class FakeUrls:
    """Issues URLs that nothing serves, and stores the requests."""

    def __init__(self) -> None:
        self.requests: dict[str, StreamRequest] = {}

    def mint(self, request: StreamRequest) -> str:
        """A URL with a number."""
        url = f"http://127.0.0.1:1/stream/{len(self.requests) + 1}"
        self.requests[url] = request
        return url


class MemoryStream:
    """One end of a connection in memory: data written to one end of a `pair` is read from the other."""

    def __init__(self) -> None:
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._ended = False

    @classmethod
    def pair(cls) -> "tuple[MemoryStream, MemoryStream]":
        """Two connected ends."""
        one, other = cls(), cls()
        one._outgoing, other._outgoing = other._incoming, one._incoming
        return one, other

    async def read(self) -> bytes:
        """The next piece; empty at the end, and at every later call."""
        if self._ended:
            return b""
        data = await self._incoming.get()
        self._ended = not data
        return data

    async def write(self, data: bytes) -> None:
        """Write a piece to the other end."""
        if data:
            self._outgoing.put_nowait(data)

    async def write_eof(self) -> None:
        """End the writing direction."""
        self._outgoing.put_nowait(b"")

    async def close(self) -> None:
        """End both directions."""
        self._outgoing.put_nowait(b"")
        self._incoming.put_nowait(b"")


class RecordingObserver(Observer):
    """Records all calls in `calls`, in order: the name of the method and its arguments, without seconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def verb_ended(self, backend: str, verb: str, code: Code, seconds: float) -> None:
        """See `Observer`."""
        del seconds
        self.calls.append(("verb_ended", backend, verb, code))

    def pull_ended(self, code: Code, seconds: float) -> None:
        """See `Observer`."""
        del seconds
        self.calls.append(("pull_ended", code))

    def fetched(self, size: int) -> None:
        """See `Observer`."""
        self.calls.append(("fetched", size))

    def repaired(self, repair: str) -> None:
        """See `Observer`."""
        self.calls.append(("repaired", repair))

    def subscriber_dropped(self) -> None:
        """See `Observer`."""
        self.calls.append(("subscriber_dropped",))
