"""Takes down the pods of a manifest that an endpoint runs, whoever has played them."""

from collections.abc import Awaitable, Callable

import attrs

from crishim.cri import pb
from crishim.interfaces.seams import Clock
from crishim.play.client import CriClient
from crishim.play.events import Event, EventKind
from crishim.play.handlers import Target
from crishim.play.pod import Pod, PodContainer
from crishim.play.stopping import remove_pod, stop_in_order, stop_one


@attrs.define
class _Running:
    """A container that is running; `one` says how to stop it."""

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
            failed=lambda text: self._tell(EventKind.HOOK_FAILED, text),
            stopping=lambda: self._tell(EventKind.STOPPING, f"grace {grace} s"),
        )
        status = await self.target.client.container_status(self.target.container_id)
        self.report(Event(kind=EventKind.EXITED, container=self.one.name, text=status.reason, code=status.exit_code))

    def _tell(self, kind: EventKind, text: str) -> None:
        self.report(Event(kind=kind, container=self.one.name, text=text))


async def take_down(client: CriClient, clock: Clock, pod: Pod, report: Callable[[Event], None]) -> int:
    """Stop every pod of this name and namespace with its hooks, order and grace, and remove it; how many there were.

    Containers that the manifest does not know are stopped like main containers without a hook. Raises `CallError`.
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
