"""The event hub: what happened, to every subscriber, each with a bounded queue.

A subscriber that does not keep up loses its stream with an error instead of losing single events: a client that missed some
must list everything anew, and the broken stream tells it so.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

from crishim.errors import ResourceExhausted
from crishim.interfaces.seats import Clock, NoObserver, Observer
from crishim.model.runtime import ContainerEvent, ContainerEventType
from crishim.service.table import SandboxEntry

_log = logging.getLogger(__name__)


class EventHub:
    """Takes events from the rooms, and hands them to the streams of GetContainerEvents."""

    def __init__(self, clock: Clock, queue: int, observer: Observer | None = None) -> None:
        self._clock = clock
        self._size = queue
        self._queues: set[asyncio.Queue[ContainerEvent | None]] = set()
        self._observer = observer or NoObserver()

    def publish(self, sandbox: SandboxEntry, subject: str, kind: ContainerEventType) -> None:
        """Tell every subscriber that something happened to `subject`, a container's id or the sandbox's own.

        The event carries the pod as it is now. With nobody listening it costs nothing.
        """
        if not self._queues:
            return
        event = ContainerEvent(
            container_id=subject,
            type=kind,
            created_at=self._clock.now(),
            pod_sandbox_status=sandbox.status(),
            containers_statuses=sandbox.container_statuses(),
        )
        for queue in tuple(self._queues):
            if queue.qsize() >= self._size:
                self._queues.discard(queue)
                self._observer.subscriber_dropped()
                _log.warning("a subscriber of container events does not keep up; its stream is ended")
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    async def subscribe(self) -> AsyncIterator[ContainerEvent]:
        """Every event from the first step on. Raises `ResourceExhausted` when the subscriber was too slow."""
        queue: asyncio.Queue[ContainerEvent | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.discard(queue)
        raise ResourceExhausted("events came faster than they were read; list everything anew and subscribe again")
