"""Stops containers and removes pods, as the kubelet does.

All stop hooks run at once. Then each container waits for its turn: sidecars until every main container and the later sidecars
have exited, in the reverse order of their start. The time of hooks and waiting is taken off the grace period, of which two
seconds always remain; without a grace period there are neither hooks nor turns.

`take_down` removes the pods of a manifest that an endpoint runs, whichever client started them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import attrs

from crishim.cri import pb
from crishim.interfaces.seats import Clock
from crishim.play.client import CriClient
from crishim.play.concurrency import within
from crishim.play.events import Event, EventKind
from crishim.play.pod import Handler, Pod, PodContainer
from crishim.play.probes import Target, hook

_MIN_GRACE: Final = 2


class Stoppable(Protocol):
    """A container that may run."""

    @property
    def one(self) -> PodContainer:
        """Its description in the manifest."""

    async def stop(self, grace: int, turn: Callable[[], Awaitable[object]] | None = None) -> None:
        """Stop it, and return when it has exited."""


async def stop_in_order(containers: Sequence[Stoppable], grace: Callable[[], int]) -> None:
    """Stop containers of one pod, given in the order of their start. Raises the first `CallError`."""
    ended = [asyncio.Event() for _ in containers]

    async def stop(number: int) -> None:
        me = containers[number]
        others = enumerate(containers)
        before = [ended[place] for place, other in others if me.one.sidecar and (not other.one.sidecar or place > number)]

        async def turn() -> None:
            for event in before:
                await event.wait()

        try:
            await me.stop(grace(), turn)
        finally:
            ended[number].set()

    await asyncio.gather(*(stop(number) for number in range(len(containers))))


async def stop_one(
    target: Target,
    pre_stop: Handler | None,
    grace: int,
    turn: Callable[[], Awaitable[object]] | None,
    *,
    clock: Clock,
    failed: Callable[[str], None],
    stopping: Callable[[], None],
) -> None:
    """Hook, turn, signal. `failed` is called with the error of a hook, `stopping` before the signal."""
    begin = clock.monotonic()
    if grace and pre_stop is not None:
        if pre_stop.kind == "sleep":
            await clock.sleep(min(pre_stop.seconds, grace))
        elif (answer := await within(hook(target, pre_stop), grace, clock)) is None:
            failed(f"preStop: took longer than the grace of {grace} s")
        elif not answer.ok:
            failed(f"preStop: {answer.text}")
    left = grace - int(clock.monotonic() - begin)
    if turn is not None and left > 0:
        await within(turn(), left, clock)
        left = grace - int(clock.monotonic() - begin)
    stopping()
    await target.client.stop_container(target.container_id, max(left, _MIN_GRACE) if grace else 0)


async def remove_pod(client: CriClient, label: Mapping[str, str]) -> int:
    """Stop and remove the sandboxes with these labels, and their containers, in the kubelet's order; return their number."""
    sandboxes = [sandbox.id for sandbox in await client.list_sandboxes(label)]
    for sandbox_id in sandboxes:
        await client.stop_sandbox(sandbox_id)
        await client.sandbox_status(sandbox_id)
    for container in await client.list_containers(label):
        await client.remove_container(container.id)
    for sandbox_id in sandboxes:
        await client.stop_sandbox(sandbox_id)
        await client.remove_sandbox(sandbox_id)
    return len(sandboxes)


@attrs.define
class _Running:
    """A running container; `one` describes how to stop it."""

    one: PodContainer
    target: Target
    clock: Clock
    report: Callable[[Event], None]

    async def stop(self, grace: int, turn: Callable[[], Awaitable[object]] | None = None) -> None:
        """See `Stoppable`."""
        await stop_one(
            self.target,
            self.one.pre_stop,
            grace,
            turn,
            clock=self.clock,
            failed=lambda text: self._report_event(EventKind.HOOK_FAILED, text),
            stopping=lambda: self._report_event(EventKind.STOPPING, f"grace {grace} s"),
        )
        status = await self.target.client.container_status(self.target.container_id)
        self.report(Event(kind=EventKind.EXITED, container=self.one.name, text=status.reason, code=status.exit_code))

    def _report_event(self, kind: EventKind, text: str) -> None:
        self.report(Event(kind=kind, container=self.one.name, text=text))


async def take_down(client: CriClient, clock: Clock, pod: Pod, report: Callable[[Event], None]) -> int:
    """Stop every pod of this name and namespace with its hooks, order and grace period, and remove it; return their number.

    Containers that are not in the manifest are stopped like main containers without a hook. Raises `CallError`.
    """
    labels = {"io.kubernetes.pod.name": pod.name, "io.kubernetes.pod.namespace": pod.namespace}
    known = {one.name: one for one in pod.everyone}
    order = list(known)
    for sandbox in await client.list_sandboxes(labels):
        status = await client.sandbox_status(sandbox.id)
        address = "127.0.0.1" if pod.host_network or not status.network.ip else status.network.ip
        uid = {"io.kubernetes.pod.uid": sandbox.labels["io.kubernetes.pod.uid"]}
        running = [
            _Running(
                known.get(one.metadata.name) or attrs.evolve(pod.containers[0], name=one.metadata.name, pre_stop=None),
                Target(client=client, container_id=one.id, address=address),
                clock,
                report,
            )
            for one in await client.list_containers(uid)
            if one.state == pb.CONTAINER_RUNNING
        ]
        running.sort(key=lambda one: order.index(one.one.name) if one.one.name in known else len(order))
        await stop_in_order(running, lambda: pod.grace)
    count = await remove_pod(client, labels)
    if count:
        report(Event(kind=EventKind.REMOVED))
    return count
