"""Sandboxes: containerd's Sandbox service over an OciRuntime, on the library's values; `sandbox_routes` converts the messages.

A handler with `sandboxer = "shim"` makes containerd leave a pod to its shim: instead of a task with a pause image it sends the
pod's configuration and a network namespace. A runtime with `SupportsSandbox` is the pod itself. For any other, a container with
a pause program is the pod, a task with the sandbox's id like those that containerd creates; so its exit, its leftovers and the
end of a daemon are handled in `tasks`.

The files that the containers of a pod share are in `pods`/NAMESPACE/ID. Start, stop and shutdown of a sandbox are serialized.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from crishim.interfaces.oci_runtime import OciRuntime, OciStatus, SupportsSandbox
from crishim.interfaces.seats import Clock
from crishim.linux.cgroups import Cgroups
from crishim.linux.mounts import unmount_entries
from crishim.model.process import Exit
from crishim.model.sandbox import PodSandboxConfig, SandboxSpec
from crishim.model.security import NamespaceMode
from crishim.model.stats import CgroupUsage
from crishim.model.values import SandboxId
from crishim.pods import files
from crishim.pods.bundle import delete_bundle, read_config, write_bundle
from crishim.pods.host import host
from crishim.pods.namespaces import user_namespace
from crishim.pods.usage import cgroup_usage
from crishim.shimv2.server.options import self_contained
from crishim.shimv2.server.pause import make_root, owner, pause_config
from crishim.shimv2.server.rootfs import RootMount
from crishim.shimv2.server.task import NONE, Creation, Key, TaskRecords
from crishim.shimv2.server.tasks import Tasks, begin

RECORD: Final = "crishim-sandbox.json"
RUNTIME: Final = "runtime"
"""The bundle of a pod's pause container, or of a runtime with `SupportsSandbox`, beside the files of the pod. In containerd's
own folder the root of a user namespace could not reach its root file system.
"""

_KILL: Final = 9
_TIMEOUT: Final = 10.0
"""Seconds in which a sandbox must have ended after its stop, if the caller names none."""

_log = logging.getLogger(__name__)


@attrs.define(eq=False)
class ShimSandbox:
    """One sandbox. `ended` is done when its exit is known."""

    key: Key
    bundle: Path
    spec: SandboxSpec | None
    options: tuple[str, bytes]
    created_at: int
    pid: int = 0
    status: OciStatus = OciStatus.CREATED
    ended: "asyncio.Future[Exit]" = attrs.field(factory=lambda: asyncio.get_running_loop().create_future())
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    watch: "asyncio.Task[None] | None" = None
    ending: "asyncio.Task[None] | None" = None
    """The end of what runs; it continues if its caller has stopped waiting."""


class ShimSandboxes:
    """All sandboxes of this daemon. `folder` is its state folder; `options_of` returns the runtime's options, which containerd
    sends with the `start` of a sandbox; `forget` is called with each key whose end leaves nothing.
    """

    def __init__(
        self,
        make: Callable[[str, tuple[str, bytes]], OciRuntime],
        clock: Clock,
        tasks: Tasks,
        cgroups: Cgroups,
        folder: Path,
        options_of: Callable[[Key], tuple[str, bytes]],
        forget: Callable[[Key], object],
    ) -> None:
        self._make = make
        self._clock = clock
        self._tasks = tasks
        self._cgroups = cgroups
        self._options_of = options_of
        self._forget = forget
        self._root = folder / "pause"
        self._pods = folder / "pods"
        self._records = TaskRecords(folder / "sandboxes", RECORD)
        self._sandboxes: dict[Key, ShimSandbox] = {}

    def __len__(self) -> int:
        return len(self._sandboxes)

    @property
    def unified(self) -> bool:
        """Whether usage is that of cgroup v2."""
        return self._tasks.unified

    async def create(self, key: Key, bundle: Path, config: PodSandboxConfig, netns: str) -> None:
        """Take over a pod and the path of its network namespace. Nothing of it runs before `start`. Raises `AlreadyExists`."""
        if key in self._sandboxes:
            raise AlreadyExists("sandbox", key[1])
        spec = SandboxSpec(id=SandboxId(key[1]), config=config, netns=netns)
        if bool(netns) == spec.host_network:
            raise InvalidArgument("netns_path", f"{netns!r} does not fit a pod with network {spec.namespaces.network.name}")
        sandbox = self._sandboxes[key] = ShimSandbox(key, bundle, spec, NONE, self._clock.now())
        async with sandbox.lock:
            try:
                sandbox.options = await asyncio.to_thread(self_contained, self._options_of(key))
                runtime = self._make(key[0], sandbox.options)  # refuses invalid options
                await self._tasks.abilities.check_sandbox((key[0], sandbox.options), runtime, spec)
                await asyncio.to_thread(self._records.save, key, bundle, sandbox.options)
            except BaseException:
                del self._sandboxes[key]
                raise

    async def start(self, key: Key) -> ShimSandbox:
        """Start a created sandbox. After a failure only `shutdown` is possible. Raises `FailedPrecondition`."""
        sandbox = self.look(key)
        async with sandbox.lock:
            if sandbox.spec is None or sandbox.status is not OciStatus.CREATED or self._sandboxes.get(key) is not sandbox:
                raise FailedPrecondition(sandbox.status, "created", f"sandbox {key[1]}")
            sandbox.status = OciStatus.STOPPED  # what a failure leaves
            node = await asyncio.to_thread(host)
            await asyncio.to_thread(files.make, self._pods.joinpath(*key), sandbox.spec, node.hostname)
            runtime = self._make(key[0], sandbox.options)
            own = self._own(key)
            own.mkdir(mode=0o711)
            if isinstance(runtime, SupportsSandbox):
                sandbox.pid = await runtime.start_sandbox(sandbox.spec, own)
                waiting = runtime.wait_sandbox(key[1])
            else:
                sandbox.pid = await self._start_pause(sandbox, sandbox.spec)
                waiting = self._tasks.wait(key, "")
            sandbox.status = OciStatus.RUNNING
            sandbox.watch = asyncio.get_running_loop().create_task(self._watch(sandbox, waiting), name=f"exit of {key[1]}")
            return sandbox

    async def stop(self, key: Key, timeout: float = 0.0) -> None:
        """End what runs of a sandbox; repeatable. `timeout` in seconds, 0 for the default.

        Raises `DeadlineExceeded`; the end continues then, as after a cancellation.
        """
        sandbox = self.look(key)
        async with sandbox.lock:
            if sandbox.status is OciStatus.CREATED:
                sandbox.status = OciStatus.STOPPED
                sandbox.ended.set_result(Exit(code=0, at=self._clock.now()))
            if sandbox.watch is None or sandbox.ended.done():
                return
            limit = timeout or _TIMEOUT
            try:
                async with asyncio.timeout(limit):
                    await self._end(sandbox)
                    await asyncio.shield(sandbox.ended)
            except TimeoutError as error:
                raise DeadlineExceeded(f"sandbox {key[1]} has not ended within {limit:g} s") from error

    async def wait(self, key: Key) -> Exit:
        """Return when a started sandbox has ended, also if it had ended before the call. Raises `FailedPrecondition`."""
        sandbox = self.look(key)
        if sandbox.status is OciStatus.CREATED:
            raise FailedPrecondition("created", "started", f"sandbox {key[1]}")
        return await asyncio.shield(sandbox.ended)

    def look(self, key: Key) -> ShimSandbox:
        """A sandbox. Raises `NotFound`."""
        try:
            return self._sandboxes[key]
        except KeyError:
            raise NotFound("sandbox", key[1]) from None

    async def shutdown(self, key: Key) -> None:
        """End a sandbox with all its containers, and free everything of it. Repeatable, also for an unknown one."""
        if (sandbox := self._sandboxes.get(key)) is not None:
            await self._free(sandbox)
        self._tasks.shutdown_asked.set()

    async def end(self, key: Key, bundle: Path) -> Exit:
        """As `Tasks.end`, for a sandbox or a task: `delete` of a shim's binary. Repeatable."""
        sandbox = self._sandboxes.get(key)
        if sandbox is None and self._records.has(key):
            options = await asyncio.to_thread(self._records.options, bundle)
            sandbox = self._sandboxes.setdefault(key, self._left(key, bundle, options or NONE))
        if sandbox is None:
            return await self._tasks.end(key, bundle)
        await self._free(sandbox)
        return sandbox.ended.result()

    def left(self) -> Mapping[Key, Path]:
        """The bundles of the sandboxes that a previous daemon has left, which `end` ends. Called at start."""
        return self._records.left()

    def config(self, key: Key) -> dict[str, Any]:
        """config.json of the pause container. Raises `DataLoss` if there is none."""
        return read_config(self._own(key))

    async def usage(self, key: Key) -> tuple[int, CgroupUsage]:
        """The time, and the usage of the pod's cgroup, or of the sandbox's own process if the pod has none."""
        sandbox = self.look(key)
        parent = sandbox.spec.config.linux.cgroup_parent if sandbox.spec is not None else ""
        now = self._clock.now()
        if not parent:
            return now, await self._tasks.usage(key)
        return now, await asyncio.to_thread(cgroup_usage, self._cgroups, parent)

    async def _start_pause(self, sandbox: ShimSandbox, spec: SandboxSpec) -> int:
        await asyncio.to_thread(make_root, self._root)
        mounts = (RootMount(kind="bind", source=str(self._root), options=("rbind", "ro")),)
        async with contextlib.AsyncExitStack() as opened:
            userns = ""
            mapped = spec.namespaces.userns_options
            if mapped is not None and mapped.mode is NamespaceMode.POD and spec.netns:
                descriptor = owner(spec.netns)
                opened.callback(os.close, descriptor)
                userns = f"/proc/{os.getpid()}/fd/{descriptor}"
            elif mapped is not None and mapped.mode is NamespaceMode.POD:
                userns = f"/proc/{await opened.enter_async_context(user_namespace(mapped))}/ns/user"
            config = pause_config(spec, await asyncio.to_thread(host), userns)
            bundle = self._own(sandbox.key)
            await asyncio.to_thread(write_bundle, bundle, config, "")
            pid = await self._tasks.create(sandbox.key, Creation(bundle=bundle, mounts=mounts, options=sandbox.options))
        await self._tasks.start(sandbox.key, "")
        return pid

    async def _watch(self, sandbox: ShimSandbox, waiting: Awaitable[Exit]) -> None:
        try:
            end = await waiting
        except Exception as error:  # noqa: BLE001 - whatever the runtime says, somebody waits for an end
            _log.warning("the exit status of sandbox %s is unknown: %r", sandbox.key[1], error)
            end = Exit.unknown()
        sandbox.status = OciStatus.STOPPED
        if not sandbox.ended.done():
            sandbox.ended.set_result(attrs.evolve(end, at=end.at or self._clock.now()))

    async def _end(self, sandbox: ShimSandbox) -> None:
        """End what runs, or wait for the end that is under way: it is never cancelled."""
        if sandbox.ending is None or sandbox.ending.done():
            sandbox.ending = begin(self._stop(sandbox), f"end of {sandbox.key[1]}")
        await asyncio.shield(sandbox.ending)

    async def _stop(self, sandbox: ShimSandbox) -> None:
        """Stop the sandbox's own process, or the runtime's sandbox; `_watch` sees it."""
        runtime = self._make(sandbox.key[0], sandbox.options)
        with contextlib.suppress(NotFound):
            if isinstance(runtime, SupportsSandbox):
                await runtime.stop_sandbox(sandbox.key[1])
            else:
                await self._tasks.kill(sandbox.key, "", _KILL, everyone=True)

    async def _free(self, sandbox: ShimSandbox) -> None:
        """End a sandbox, known from its requests or only from its record, and forget it."""
        key = sandbox.key
        async with sandbox.lock:
            if self._sandboxes.get(key) is not sandbox:
                return
            for member in self._tasks.members(key):
                await self._tasks.end(member.key, member.bundle)
                self._forget(member.key)
            if isinstance(self._make(key[0], sandbox.options), SupportsSandbox):
                await self._end(sandbox)
            end = await self._tasks.end(key, self._own(key))
            if sandbox.watch is not None:
                await asyncio.wait({sandbox.watch}, timeout=_TIMEOUT)
            if (folder := self._pods.joinpath(*key)).exists():
                await asyncio.to_thread(unmount_entries, folder)
                await asyncio.to_thread(delete_bundle, folder)
            await asyncio.to_thread(self._records.forget, key, sandbox.bundle)
            sandbox.status = OciStatus.STOPPED
            if not sandbox.ended.done():
                sandbox.ended.set_result(end)
            del self._sandboxes[key]
            self._forget(key)

    def _own(self, key: Key) -> Path:
        return self._pods.joinpath(*key) / RUNTIME

    def _left(self, key: Key, bundle: Path, options: tuple[str, bytes]) -> ShimSandbox:
        """A sandbox that another daemon has created, of which only this is known."""
        return ShimSandbox(key, bundle, None, options, self._clock.now(), status=OciStatus.STOPPED)
