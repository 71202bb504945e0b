"""Publishes a task's events to containerd, in order, with a queue and retries.

containerd also learns of exits by Wait, so a lost event delays it at most. Each address that a `start` named has one
connection and one queue.
"""

import asyncio
import contextlib
import logging
from typing import Final

from google.protobuf.message import Message

from crishim._proto import shim_events_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.errors import Code, CrishimError
from crishim.interfaces.seats import Clock
from crishim.shimv2.wire.messages import NAMESPACE_KEY, packed, timestamp
from crishim.ttrpc.client import Client
from crishim.ttrpc.status import TtrpcError

SERVICE: Final = "containerd.services.events.ttrpc.v1.Events"

_MOST: Final = 2048
_TRIES: Final = 5
_PAUSE: Final = 0.2
_TIMEOUT: Final = 5.0

_log = logging.getLogger(__name__)


class Publisher:
    """Sends events to the event service at `address`, a path; with an empty address events are dropped."""

    def __init__(self, address: str, clock: Clock) -> None:
        self._address = address if "://" in address or not address else f"unix://{address}"
        self._clock = clock
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(_MOST)
        self._client: Client | None = None
        self._task = asyncio.create_task(self._send_all()) if address else None

    def publish(self, namespace: str, topic: str, event: Message) -> None:
        """Queue an event. If the queue is full the event is dropped, and the loss is logged."""
        if self._task is None:
            return
        envelope = types_pb.Envelope(
            timestamp=timestamp(self._clock.now()),
            namespace=namespace,
            topic=topic,
            event=packed(f"containerd.events.{type(event).__name__}", event),
        )
        try:
            self._queue.put_nowait((namespace, pb.ForwardRequest(envelope=envelope).SerializeToString()))
        except asyncio.QueueFull:
            _log.warning("%s of %s is lost: no event service at %s", topic, namespace, self._address)

    async def close(self) -> None:
        """Send the queued events if that succeeds soon, and end."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._queue.join()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._drop()

    async def _send_all(self) -> None:
        while True:
            namespace, request = await self._queue.get()
            try:
                await self._send(namespace, request)
            finally:
                self._queue.task_done()

    async def _send(self, namespace: str, request: bytes) -> None:
        metadata = ((NAMESPACE_KEY, namespace),)
        for attempt in range(_TRIES):
            try:
                if self._client is None or self._client.closed.done():
                    self._client = await Client.connect(self._address)
                await self._client.call(SERVICE, "Forward", request, timeout=_TIMEOUT, metadata=metadata)
            except CrishimError as error:
                if isinstance(error, TtrpcError) and error.answer is not Code.UNAVAILABLE:
                    _log.warning("an event of %s is lost: %s", namespace, error)
                    return  # it would be refused again, and would delay the others
                _log.debug("an event was not accepted at %s: %s", self._address, error)
                await self._drop()
                await self._clock.sleep(_PAUSE * 2**attempt)
            else:
                return
        _log.warning("an event of %s is lost: no event service at %s", namespace, self._address)

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
