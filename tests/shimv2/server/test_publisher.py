"""TaskEvents for containerd: in order, retried while it is down, and a refused event does not delay the rest."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crishim._proto import shim_events_pb2 as pb
from crishim.errors import InvalidArgument, Unavailable
from crishim.shimv2.server.events import SERVICE, Publisher
from crishim.shimv2.wire.messages import NAMESPACE_KEY
from crishim.testing.doubles import FakeClock
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Server
from tests.streaming.worlds import until


class Events:
    """Containerd's event service; it fails as long as `failures` has an error for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[Request] = []
        self.failures: list[Exception] = []
        self._server: Server | None = None

    async def forward(self, request: Request) -> bytes:
        if self.failures:
            raise self.failures.pop(0)
        self.requests.append(request)
        return b""

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        self._server = Server({(SERVICE, "Forward"): self.forward})
        await self._server.listen(listener)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.close()

    def envelopes(self) -> list[tuple[str, str]]:
        """Topic and container of the received events."""
        found = [pb.ForwardRequest.FromString(request.payload).envelope for request in self.requests]
        return [(one.topic, pb.TaskStart.FromString(one.event.value).container_id) for one in found]


@pytest.fixture
async def events(tmp_path: Path) -> AsyncIterator[Events]:
    server = Events(tmp_path / "s")
    yield server
    await server.stop()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def publisher(events: Events, clock: FakeClock) -> AsyncIterator[Publisher]:
    client = Publisher(str(events.path), clock)
    yield client
    await client.close()


async def test_in_order(events: Events, publisher: Publisher, clock: FakeClock) -> None:
    """Events arrive in the order of their publication, with namespace, topic, type and time."""
    await events.start()
    for number in range(100):
        publisher.publish("k8s.io", "/tasks/start", pb.TaskStart(container_id=f"t{number}", pid=7))
    await until(lambda: len(events.requests) == 100)
    assert [("/tasks/start", f"t{number}") for number in range(100)] == events.envelopes()
    envelope = pb.ForwardRequest.FromString(events.requests[0].payload).envelope
    assert ("k8s.io", "containerd.events.TaskStart") == (envelope.namespace, envelope.event.type_url)
    assert clock.now() == envelope.timestamp.seconds * 10**9 + envelope.timestamp.nanos
    assert (NAMESPACE_KEY, "k8s.io") in events.requests[0].metadata


async def test_containerd_is_away(events: Events, publisher: Publisher, clock: FakeClock) -> None:
    """Events published while containerd is away arrive in order once it is back."""
    for name in ("one", "two"):
        publisher.publish("k8s.io", "/tasks/start", pb.TaskStart(container_id=name))
    await until(lambda: clock.sleepers == 1)
    await events.start()
    await clock.advance(0.2)
    await until(lambda: len(events.requests) == 2)
    assert ["one", "two"] == [name for _, name in events.envelopes()]


async def test_containerd_comes_back(events: Events, publisher: Publisher, clock: FakeClock) -> None:
    """A connection that has ended is replaced."""
    await events.start()
    publisher.publish("k8s.io", "/tasks/start", pb.TaskStart(container_id="one"))
    await until(lambda: len(events.requests) == 1)
    await events.stop()
    await events.start()
    publisher.publish("k8s.io", "/tasks/start", pb.TaskStart(container_id="two"))
    await until(lambda: bool(clock.sleepers) or len(events.requests) == 2)
    await clock.advance(0.2)
    await until(lambda: len(events.requests) == 2)
    assert ["one", "two"] == [name for _, name in events.envelopes()]


@pytest.mark.parametrize(("error", "arrived"), [(InvalidArgument("event", "no"), ["two"]), (Unavailable(""), ["one", "two"])])
async def test_refused(events: Events, publisher: Publisher, clock: FakeClock, error: Exception, arrived: list[str]) -> None:
    """An event that containerd refuses is dropped; one that it cannot take at the moment is sent again."""
    await events.start()
    events.failures.append(error)
    for name in ("one", "two"):
        publisher.publish("k8s.io", "/tasks/start", pb.TaskStart(container_id=name))
    await until(lambda: bool(clock.sleepers) or len(events.requests) == len(arrived))
    await clock.advance(0.2)
    await until(lambda: len(events.requests) == len(arrived))
    assert arrived == [name for _, name in events.envelopes()]


async def test_without_a_listener(publisher: Publisher, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """After some tries an event is lost with a line in the log, and the next one has its own."""
    publisher.publish("k8s.io", "/tasks/start", pb.TaskStart(container_id="one"))
    for seconds in (0.2, 0.4, 0.8, 1.6, 3.2):
        await until(lambda: clock.sleepers == 1)
        await clock.advance(seconds)
    await until(lambda: "is lost" in caplog.text)
    assert 1 == caplog.text.count("is lost")


async def test_more_than_can_wait(publisher: Publisher, caplog: pytest.LogCaptureFixture) -> None:
    """With a queue that is full events are lost, and memory does not grow."""
    for _ in range(2050):
        publisher.publish("k8s.io", "/tasks/start", pb.TaskStart(container_id="one"))
    assert 2 == caplog.text.count("is lost")


async def test_no_address(clock: FakeClock) -> None:
    """Without an address no event is published, which is no error."""
    publisher = Publisher("", clock)
    publisher.publish("k8s.io", "/tasks/start", pb.TaskStart(container_id="one"))
    await publisher.close()
    assert 0 == clock.sleepers
