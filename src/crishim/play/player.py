"""Plays one pod: sandbox, init containers in order, sidecars, containers, exits and restarts, and the removal of everything.

Errors that a real kubelet would retry for ever end the play: a sandbox or container that cannot be created, an image that
cannot be pulled. A container that cannot be started has exit code 128, as runtimes report it, and its restart policy applies.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs

from crishim.interfaces.seats import Clock
from crishim.play.client import CallError, CriClient
from crishim.play.concurrency import together, uninterrupted
from crishim.play.configs import Node, sandbox_config
from crishim.play.container_loop import ContainerLoop, Stage
from crishim.play.events import Event, EventKind, Outcome, PodPhase
from crishim.play.pod import Pod, PodContainer, RestartPolicy
from crishim.play.relist import Relist
from crishim.play.stopping import remove_pod, stop_in_order
from crishim.play.volumes import PodFolders

OUT_OF_TIME: Final = 124
"""The exit code of a pod that has exceeded its activeDeadlineSeconds, as of `timeout`."""


def _ignore(event: Event) -> None:
    del event


class Player:
    """Plays pods on one CRI endpoint, one pod per player.

    `period` is the interval of container lists, in seconds. `report` is called with every event, `tokens` names the files of
    termination messages.
    """

    def __init__(
        self,
        client: CriClient,
        node: Node,
        clock: Clock,
        *,
        report: Callable[[Event], None] = _ignore,
        period: float = 1.0,
        tokens: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        self._client = client
        self._node = node
        self._clock = clock
        self._report = report
        self._period = period
        self._tokens = tokens
        self._loops: list[ContainerLoop] = []
        self._beside: list[asyncio.Task[Any]] = []
        self._pending: frozenset[str] = frozenset()
        self._grace: int | None = None

    async def play(self, pod: Pod) -> Outcome:
        """Play the pod to its end, and remove it. If cancelled, it is stopped with its grace period and removed all the same.

        Raises `InvalidArgument` for a field that this kubelet does not support, `CallError` for errors of the runtime.
        """
        folders = PodFolders(pod, self._node)
        self._grace = pod.grace
        try:
            folders.make()
            try:
                outcome = await self._live(pod, folders)
            finally:
                await uninterrupted(self._tear_down(pod))
                self._report_event(EventKind.REMOVED)
        finally:
            await asyncio.to_thread(folders.remove)
        return outcome

    async def hurry(self) -> None:
        """Use no grace period for the current or later stop."""
        self._grace = 0
        running = [loop for loop in self._loops if loop.running]
        await asyncio.gather(*(self._client.stop_container(loop.container_id, 0) for loop in running))

    async def _live(self, pod: Pod, folders: PodFolders) -> Outcome:
        self._phase(PodPhase.PENDING)
        self._pending = frozenset(one.name for one in pod.containers)
        config = sandbox_config(pod, self._node)
        sandbox_id = await uninterrupted(self._client.run_sandbox(config, pod.handler))
        status = await self._client.sandbox_status(sandbox_id)
        ips = tuple(ip for ip in (status.network.ip, *(other.ip for other in status.network.additional_ips)) if ip)
        self._report_event(EventKind.SANDBOX, " ".join((sandbox_id, *ips)))
        folders.complete(ips)
        relist = Relist(self._client, self._clock, _uid_label(pod), period=self._period)
        stage = Stage(
            client=self._client,
            clock=self._clock,
            node=self._node,
            pod=pod,
            sandbox_id=sandbox_id,
            sandbox=config,
            ips=ips,
            folders=folders,
            relist=relist,
            tokens=self._tokens,
            report=self._from_container,
        )
        async with together() as group:
            self._beside.append(group.create_task(relist.run()))
            work = group.create_task(self._containers(stage, group))
            self._beside.append(work)
            ends: set[asyncio.Task[Any]] = {work}
            if pod.deadline is not None:
                ends.add(group.create_task(self._clock.sleep(pod.deadline)))
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            outcome = work.result() if work.done() else Outcome(phase=PodPhase.FAILED, code=OUT_OF_TIME)
            for task in (*self._beside, *ends):
                task.cancel()
        self._phase(outcome.phase)
        return outcome

    async def _containers(self, stage: Stage, group: asyncio.TaskGroup) -> Outcome:
        pod = stage.pod
        for one in pod.inits:
            loop = self._loop(stage, one)
            if one.sidecar:
                self._beside.append(group.create_task(loop.run(RestartPolicy.ALWAYS)))
                await loop.up.wait()
                continue
            policy = RestartPolicy.NEVER if pod.restart is RestartPolicy.NEVER else RestartPolicy.ON_FAILURE
            if code := await loop.run(policy):
                return Outcome(phase=PodPhase.FAILED, code=code, codes=((one.name, code),))
        loops = [self._loop(stage, one) for one in pod.containers]
        async with together() as mains:
            runs = [mains.create_task(loop.run(pod.restart)) for loop in loops]
        codes = [run.result() for run in runs]
        code = next((code for code in codes if code), 0)
        names = (loop.one.name for loop in loops)
        phase = PodPhase.FAILED if code else PodPhase.SUCCEEDED
        return Outcome(phase=phase, code=code, codes=tuple(zip(names, codes, strict=True)))

    async def _tear_down(self, pod: Pod) -> None:
        """Stop the containers in order, then the sandbox; remove the containers, then the sandbox."""
        endings = [_Ending(loop) for loop in self._loops]
        await stop_in_order(endings, lambda: pod.grace if self._grace is None else self._grace)
        await remove_pod(self._client, _uid_label(pod))

    def _loop(self, stage: Stage, one: PodContainer) -> ContainerLoop:
        loop = ContainerLoop(stage, one)
        self._loops.append(loop)
        return loop

    def _from_container(self, event: Event) -> None:
        """Forward an event; the first start of a main container makes the pod Running."""
        self._report(event)
        if event.kind is EventKind.STARTED and event.container in self._pending:
            self._pending = frozenset()
            self._phase(PodPhase.RUNNING)

    def _phase(self, phase: PodPhase) -> None:
        self._report_event(EventKind.PHASE, phase)

    def _report_event(self, kind: EventKind, text: str = "") -> None:
        self._report(Event(kind=kind, text=text))


def _uid_label(pod: Pod) -> dict[str, str]:
    return {"io.kubernetes.pod.uid": pod.uid}


@attrs.frozen
class _Ending:
    """A container loop whose end is not awaited any more."""

    loop: ContainerLoop

    @property
    def one(self) -> PodContainer:
        """The container."""
        return self.loop.one

    async def stop(self, grace: int, turn: Callable[[], Awaitable[object]] | None = None) -> None:
        """See `Stoppable`."""
        await self.loop.stop(grace, turn)
        with contextlib.suppress(CallError):
            await self.loop.see_end()
