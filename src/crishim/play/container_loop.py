"""The loop of one container of a pod: image, create, start, hook, probes, exit, and a new start after a back-off."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from crishim.cri import pb
from crishim.errors import Code
from crishim.interfaces.seats import Clock
from crishim.model.sandbox import PodSandboxConfig
from crishim.play.client import CallError, CriClient
from crishim.play.configs import Node, Start, container_config, image_spec, log_folder
from crishim.play.events import Event, EventKind
from crishim.play.pod import Handler, Pod, PodContainer, Probe, PullPolicy, RestartPolicy
from crishim.play.probes import Prober, Target, hook
from crishim.play.relist import Relist
from crishim.play.stopping import stop_one
from crishim.play.volumes import PodFolders

FIRST: Final = 10.0
MOST: Final = 300.0
_FORGET: Final = 2 * MOST


class BackOff:
    """No pause at first, then ten seconds, doubled up to five minutes; reset after ten minutes without an exit."""

    def __init__(self) -> None:
        self._next = FIRST
        self._last: float | None = None

    def pause(self, ended: float) -> float:
        """Seconds to wait after an exit at `ended`, in seconds of a monotonic clock."""
        if self._last is None or ended - self._last > _FORGET:
            pause, self._next = 0.0, FIRST
        else:
            pause, self._next = self._next, min(2 * self._next, MOST)
        self._last = ended + pause
        return pause


START_FAILED: Final = 128


@attrs.frozen(kw_only=True)
class Stage:
    """The shared state of one pod's containers, once its sandbox runs."""

    client: CriClient
    clock: Clock
    node: Node
    pod: Pod
    sandbox_id: str
    sandbox: PodSandboxConfig
    ips: tuple[str, ...]
    folders: PodFolders
    relist: Relist
    tokens: Callable[[], str]
    report: Callable[[Event], None]

    @property
    def address(self) -> str:
        """The address of the pod's ports: its own, or the machine's if it has none."""
        return self.ips[0] if self.ips and not self.pod.host_network else "127.0.0.1"


class ContainerLoop:
    """One container. `container_id` is its latest start's; `running` is set from before its start until its exit was seen;
    `up` is set once it counts as started.
    """

    def __init__(self, stage: Stage, one: PodContainer) -> None:
        self.one = one
        self.container_id = ""
        self.running = False
        self.up = asyncio.Event()
        self._stage = stage
        self._attempt = 0
        self._token = ""
        self._ready = False

    async def run(self, policy: RestartPolicy) -> int:
        """Run it until the policy does not restart it; return the last exit code. Raises `CallError` if it cannot
        be created.
        """
        clock, backoff = self._stage.clock, BackOff()
        while True:
            code = await self._once()
            if not policy.restarts(code):
                return code
            if pause := backoff.pause(clock.monotonic()):
                self._report(EventKind.WAITING, f"back-off {pause:g} s")
                await clock.sleep(pause)
            self._attempt += 1

    async def stop(self, grace: int, turn: Callable[[], Awaitable[object]] | None = None) -> None:
        """Hook, wait for `turn`, stop signal and grace period, in the order of the kubelet; nothing if it does not run."""
        if self.running:
            await stop_one(
                self._target(),
                self.one.pre_stop,
                grace,
                turn,
                clock=self._stage.clock,
                failed=lambda text: self._report(EventKind.HOOK_FAILED, text),
                stopping=lambda: self._report(EventKind.STOPPING, f"grace {grace} s"),
            )

    async def see_end(self) -> None:
        """Record and report the exit of a stopped container whose loop has ended."""
        if self.running:
            status = await self._stage.client.container_status(self.container_id)
            if status.state == pb.CONTAINER_EXITED:
                self._ended(status)

    async def _once(self) -> int:
        stage, one = self._stage, self.one
        self._token = stage.tokens()
        image_id, image_user = await self._image()
        start = Start(attempt=self._attempt, image_id=image_id, image_user=image_user, ips=stage.ips, token=self._token)
        config = container_config(stage.pod, one, stage.node, start)
        stage.folders.container(one, self._token)
        self.container_id = await stage.client.create_container(stage.sandbox_id, config, stage.sandbox)
        self._report(EventKind.CREATED, self.container_id)
        self.running = True
        try:
            await stage.client.start_container(self.container_id)
        except CallError as error:
            self.running = False
            self._report(EventKind.EXITED, error.message, code=START_FAILED)
            return START_FAILED
        log = f"{log_folder(stage.pod, stage.node)}/{config.log_path}"
        stage.report(Event(kind=EventKind.STARTED, container=one.name, text=self._attempt_text(), log=log))
        ended = asyncio.create_task(stage.relist.ended(self.container_id))
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({ended, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            return self._ended(await ended)
        finally:
            ended.cancel()
            watching.cancel()
            await asyncio.wait({ended, watching})

    def _ended(self, status: pb.ContainerStatus) -> int:
        self.running = self._ready = False
        message = self._stage.folders.termination_message(self.one, self._token, status.log_path, failed=bool(status.exit_code))
        reason = status.reason or ("Error" if status.exit_code else "Completed")
        text = ": ".join(part for part in (reason, message.strip() or status.message) if part)
        self._report(EventKind.EXITED, text, code=status.exit_code)
        return status.exit_code

    async def _watch(self) -> None:
        """Run the start hook, then the probes."""
        if self.one.post_start is not None and not await self._began(self.one.post_start):
            await self.stop(self._stage.pod.grace)
            return
        await Prober(
            self._target(),
            self._stage.clock,
            self.one,
            started=self.up.set,
            ready=self._set_ready,
            unhealthy=self._fail,
        ).run()

    async def _fail(self, probe: Probe, word: str, output: str) -> None:
        self._report(EventKind.UNHEALTHY, f"{word} probe failed: {output}" if output else f"{word} probe failed")
        await self.stop(self._stage.pod.grace if probe.grace is None else probe.grace)

    async def _began(self, handler: Handler) -> bool:
        """Run the start hook; return whether it succeeded."""
        if handler.kind == "sleep":
            await self._stage.clock.sleep(handler.seconds)
            return True
        answer = await hook(self._target(), handler)
        if not answer.ok:
            self._report(EventKind.HOOK_FAILED, f"postStart: {answer.text}")
        return bool(answer.ok)

    def _target(self) -> Target:
        return Target(client=self._stage.client, container_id=self.container_id, address=self._stage.address)

    async def _image(self) -> tuple[str, int | str]:
        """The image's id and user. For a runtime without images the reference is the id."""
        stage, one = self._stage, self.one
        spec = image_spec(stage.pod, one.image)
        image = await stage.client.image_status(spec)
        if one.pull is PullPolicy.ALWAYS or (image is None and one.pull is not PullPolicy.NEVER):
            self._report(EventKind.PULLING, one.image)
            try:
                await stage.client.pull_image(spec, stage.sandbox)
            except CallError as error:
                if error.code is not Code.UNIMPLEMENTED or image is not None:
                    raise
                return one.image, 0
            self._report(EventKind.PULLED, one.image)
            image = await stage.client.image_status(spec)
        if image is None:
            raise CallError("ImageStatus", Code.NOT_FOUND, f"image {one.image} is not present, and must not be pulled")
        return image.id, image.username or image.uid.value

    def _set_ready(self, ready: bool) -> None:
        if ready is not self._ready:
            self._ready = ready
            if self.one.readiness is not None:
                self._report(EventKind.READY if ready else EventKind.UNREADY)

    def _attempt_text(self) -> str:
        return f"attempt {self._attempt}" if self._attempt else ""

    def _report(self, kind: EventKind, text: str = "", code: int | None = None) -> None:
        self._stage.report(Event(kind=kind, container=self.one.name, text=text, code=code))
