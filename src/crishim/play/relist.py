"""Watches containers by lists, as the kubelet's event generator does."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from crishim.cri import pb
from crishim.errors import Code
from crishim.interfaces.seats import Clock
from crishim.play.client import CallError, CriClient

_log = logging.getLogger(__name__)
_GONE: Final = 137


class Relist:
    """Lists the pod's containers every `period` seconds, and requests the status of those that have exited.

    An unreachable runtime is retried for `timeout` seconds: its containers keep running meanwhile.
    """

    def __init__(
        self, client: CriClient, clock: Clock, labels: Mapping[str, str], *, period: float, timeout: float = 60.0
    ) -> None:
        self._client = client
        self._clock = clock
        self._labels = labels
        self._period = period
        self._timeout = timeout
        self._waiters: dict[str, asyncio.Future[pb.ContainerStatus]] = {}

    async def ended(self, container_id: str) -> pb.ContainerStatus:
        """The status of a container once it has exited. A removed container has exit code 137, as in the kubelet."""
        waiter = self._waiters.setdefault(container_id, asyncio.get_running_loop().create_future())
        return await asyncio.shield(waiter)

    async def run(self) -> None:
        """List repeatedly. Raises `CallError`."""
        silent_since: float | None = None
        while True:
            try:
                await self._once()
                silent_since = None
            except CallError as error:
                silent_since = self._clock.monotonic() if silent_since is None else silent_since
                away = error.code in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}
                if not away or self._clock.monotonic() - silent_since > self._timeout:
                    raise
                _log.warning("the runtime does not respond: %s", error)
            await self._clock.sleep(self._period)

    async def _once(self) -> None:
        waiting = [container_id for container_id, waiter in self._waiters.items() if not waiter.done()]
        if not waiting:
            return
        states = {one.id: one.state for one in await self._client.list_containers(self._labels)}
        for container_id in waiting:
            if states.get(container_id) == pb.CONTAINER_RUNNING:
                continue
            status = await self._status(container_id)
            if status.state == pb.CONTAINER_EXITED:
                self._waiters[container_id].set_result(status)

    async def _status(self, container_id: str) -> pb.ContainerStatus:
        try:
            return await self._client.container_status(container_id)
        except CallError as error:
            if error.code is Code.NOT_FOUND:
                state, reason = pb.CONTAINER_EXITED, "ContainerStatusUnknown"
                return pb.ContainerStatus(id=container_id, state=state, exit_code=_GONE, reason=reason)
            raise
