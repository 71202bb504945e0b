"""ShimRuntime: an OciRuntime over containerd's shims, with one shim process for each sandbox.

The sandbox's own container is created first (annotation `io.kubernetes.cri.container-type: sandbox`) and starts the shim;
every container that names the sandbox in `io.kubernetes.cri.sandbox-id` is created by the same one. The shim runs the
processes; this side reads and writes their named pipes, writes the logs, and after a restart resumes from the files of
`client.files`. Deleting the sandbox's own container ends every process of the sandbox, and the shim.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
from google.protobuf.any_pb2 import Any as AnyMessage

from crishim._proto.shim_sandbox_pb2 import CreateSandboxRequest
from crishim.errors import (
    AlreadyExists,
    CrishimError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from crishim.interfaces.backend import BackendInfo, NetnsSource
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.keeper import Keeper
from crishim.interfaces.oci_runtime import OciState, Stdio
from crishim.interfaces.seats import Clock
from crishim.model.features import OCI, Feature
from crishim.model.process import Exit
from crishim.model.sandbox import SandboxSpec
from crishim.model.stats import CgroupUsage
from crishim.model.values import ContainerId, SandboxId
from crishim.pods.bundle import read_config
from crishim.shimv2.client.binary import ShimBinary
from crishim.shimv2.client.connection import ShimEvents
from crishim.shimv2.client.exec import ShimExec
from crishim.shimv2.client.files import SandboxFolder, find_sandbox
from crishim.shimv2.client.sandbox import SandboxShim
from crishim.shimv2.client.sandbox_link import sandbox_request
from crishim.shimv2.client.task import ShimTask
from crishim.shimv2.wire.messages import runtime_spec
from crishim.shimv2.wire.metrics import decode_metrics

__all__ = ["ShimRuntime"]

Options: TypeAlias = Callable[[Mapping[str, Any]], AnyMessage | None]

_TYPE: Final = "io.kubernetes.cri.container-type"
_SANDBOX: Final = "io.kubernetes.cri.sandbox-id"
_KILL: Final = 9
_USAGE_TIMEOUT: Final = 1.0

_log = logging.getLogger(__name__)
_VERSION: Final = re.compile(r"[Vv]ersion:?\s*([^\s,]+)")


def no_options(_config: Mapping[str, Any]) -> AnyMessage | None:
    """For shims that need no options."""
    return None


class ShimRuntime:
    """Runs bundles by `binary`. `root` is the folder for the records of the shims.

    `options` makes the runtime's own options of a Create from the container's config.json. With a `keeper` that has the
    containers' streams, so that no output is lost while this process is away.
    """

    name = "shim"
    supported: frozenset[Feature] = OCI

    def __init__(
        self, binary: ShimBinary, root: Path, clock: Clock, options: Options = no_options, *, keeper: Keeper | None = None
    ) -> None:
        self._binary = binary
        self._root = root
        self._clock = clock
        self._keeper = keeper
        self._options = options
        self._sandboxes: dict[str, asyncio.Future[SandboxShim]] = {}
        self._events = ShimEvents(Path(binary.events), self._out_of_memory) if binary.events else None
        self._version = ""
        self._pods: dict[str, CreateSandboxRequest] = {}

    @contextlib.contextmanager
    def announced(self, spec: SandboxSpec) -> Iterator[None]:
        """The pod of the sandbox that is created inside the `with`: a shim with the Sandbox service creates it by its
        configuration.
        """
        self._pods[spec.id] = sandbox_request(spec)
        try:
            yield
        finally:
            self._pods.pop(spec.id, None)

    async def probe(self) -> BackendInfo:
        """The shim's version. Raises `FailedPrecondition` if its binary is missing."""
        self._binary.path()
        if not self._version:
            output = await self._binary.version(Path("/"))
            match = _VERSION.search(output)
            self._version = match[1] if match else output[:100] or "0"
        return BackendInfo(name=self.name, version=self._version, netns=NetnsSource.LIBRARY, supported=self.supported)

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """As `OciRuntime.create`; for a sandbox's own container the shim is started first."""
        config = await asyncio.to_thread(read_config, bundle)
        annotations, options = config.get("annotations", {}), self._options(config)
        sandbox_id = annotations.get(_SANDBOX, container_id)
        if annotations.get(_TYPE, "sandbox") != "sandbox":
            return await (await self._sandbox(sandbox_id)).create(container_id, bundle, stdio, options)
        if container_id != sandbox_id:
            raise InvalidArgument("annotations", f"the sandbox's own container has the id {sandbox_id}, not {container_id}")
        if self._events is not None:
            await self._events.open()
        folder = SandboxFolder(self._root / sandbox_id)
        if folder.shim() is not None:
            raise AlreadyExists("sandbox", sandbox_id)
        sandbox = SandboxShim(folder, self._binary, self._clock, self._keeper)
        self._keep(sandbox)
        try:
            await sandbox.launch(bundle, options, self._pods.get(sandbox_id))
            return await sandbox.create(container_id, bundle, stdio, options)
        except CrishimError:
            try:
                await self._end(sandbox_id, sandbox)
            except CrishimError as error:
                _log.warning("the start of sandbox %s has failed, and so does its end: %s", sandbox_id, error)
            raise

    async def start(self, container_id: str) -> None:
        """As `OciRuntime.start`."""
        await (await self._of(container_id)).start(container_id)

    async def state(self, container_id: str) -> OciState:
        """As `OciRuntime.state`."""
        sandbox = await self._of(container_id)
        status, pid = await sandbox.status(container_id)
        return OciState(id=container_id, status=status, pid=pid, bundle=sandbox.task(container_id).record.bundle)

    async def kill(self, container_id: str, number: int, *, everyone: bool = False) -> None:
        """As `OciRuntime.kill`."""
        sandbox = await self._of(container_id)
        task = sandbox.task(container_id)
        if task.end.done():
            raise NotFound("process of container", container_id)
        task.killed = task.killed or number == _KILL
        await (await sandbox.link()).kill(container_id, number, everyone=everyone)

    async def delete(self, container_id: str) -> None:
        """As `OciRuntime.delete`. With the sandbox's own container everything of the sandbox ends.

        Raises `Unavailable` while leftovers of a sandbox are on the node, also if no shim of it is recorded any more.
        """
        if (self._root / container_id).is_dir():
            sandbox = await self._sandbox(container_id)
            known = sandbox.folder.shim() is not None
            await self._end(container_id, sandbox)
            if not known:
                await self._check_leftovers(container_id)
                raise NotFound("container", container_id)
            return
        try:
            sandbox = await self._of(container_id)
        except NotFound:
            await self._check_leftovers(container_id)
            raise
        await sandbox.remove(container_id)
        if not sandbox.folder.path.exists():
            self._sandboxes.pop(sandbox.folder.sandbox_id, None)

    async def wait(self, container_id: str) -> Exit:
        """As `OciRuntime.wait`."""
        return await (await self._of(container_id)).wait(container_id)

    async def exec_process(
        self, container_id: str, process: Mapping[str, Any], io: ProcessIO, started: Callable[[int], None]
    ) -> Exit:
        """As `SupportsExecProcess.exec_process`."""
        return await ShimExec(await self._of(container_id), container_id, process, io, started).run()

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""
        task = await self._task(container_id)
        if task.streams is not None:
            await task.streams.attach(io)

    async def reopen_log(self, container_id: ContainerId) -> None:
        """As `SupportsLogReopen.reopen_log`."""
        task = await self._task(container_id)
        if task.streams is not None:
            await task.streams.reopen()

    async def pause_container(self, container_id: ContainerId) -> None:
        """As `SupportsPause`."""
        await (await (await self._of(container_id)).link()).pause(container_id)

    async def resume_container(self, container_id: ContainerId) -> None:
        """As `SupportsPause`."""
        await (await (await self._of(container_id)).link()).resume(container_id)

    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """As `SupportsUpdateResources.update_resources`."""
        limits = runtime_spec("LinuxResources", resources)
        await (await (await self._of(container_id)).link()).update(container_id, limits)

    async def cgroup_usage(self, container_id: str) -> CgroupUsage:
        """As `SupportsCgroupUsage.cgroup_usage`, from the shim.

        Raises `DeadlineExceeded` after a second: a shim that hangs must not delay the usage of the whole node.
        """
        sandbox = await self._of(container_id)
        task = sandbox.task(container_id)
        if task.end.done():
            raise NotFound("process of container", container_id)
        try:
            async with asyncio.timeout(_USAGE_TIMEOUT):
                usage = decode_metrics(await (await sandbox.link()).stats(container_id))
        except TimeoutError as error:
            raise DeadlineExceeded(f"the shim of {container_id} does not answer in {_USAGE_TIMEOUT:g} s") from error
        return usage if usage.oom_kills is not None else attrs.evolve(usage, oom_kills=task.oom_kills)

    def leftovers(self) -> Mapping[SandboxId, Sequence[str]]:
        """As `SupportsLeftovers.leftovers`, for dead shims."""
        known = (sandbox.result() for sandbox in self._sandboxes.values() if _is_there(sandbox))
        return {SandboxId(sandbox.folder.sandbox_id): sandbox.left for sandbox in known if sandbox.left}

    async def detach(self) -> None:
        """Close all connections and pipes, as if this process had ended: shims and containers keep running, and can be
        resumed.
        """
        for sandbox in tuple(self._sandboxes.values()):
            with contextlib.suppress(CrishimError):
                await (await sandbox).detach()
        self._sandboxes.clear()
        if self._events is not None:
            await self._events.close()

    async def _task(self, container_id: str) -> ShimTask:
        return (await self._of(container_id)).task(container_id)

    async def _of(self, container_id: str) -> SandboxShim:
        """The sandbox of a container. Raises `NotFound`."""
        if (sandbox := self._holder(container_id)) is not None:
            return sandbox
        folder = find_sandbox(self._root, container_id)
        if folder is None:
            raise NotFound("container", container_id)
        return await self._sandbox(folder.sandbox_id)

    async def _sandbox(self, sandbox_id: str) -> SandboxShim:
        """A sandbox, resumed from its files after a restart. Raises `NotFound`."""
        resumed = self._sandboxes.get(sandbox_id)
        if resumed is None:
            folder = SandboxFolder(self._root / sandbox_id)
            if not folder.path.is_dir():
                raise NotFound("sandbox", sandbox_id)
            resumed = self._sandboxes[sandbox_id] = asyncio.ensure_future(self._resumed(folder))
        try:
            return await asyncio.shield(resumed)
        except Exception:  # concerns one sandbox; its next call tries again
            if self._sandboxes.get(sandbox_id) is resumed:
                del self._sandboxes[sandbox_id]
            raise

    async def _resumed(self, folder: SandboxFolder) -> SandboxShim:
        if self._events is not None:
            await self._events.open()
        sandbox = SandboxShim(folder, self._binary, self._clock, self._keeper)
        await sandbox.resume()
        return sandbox

    def _keep(self, sandbox: SandboxShim) -> None:
        resumed: asyncio.Future[SandboxShim] = asyncio.get_running_loop().create_future()
        resumed.set_result(sandbox)
        self._sandboxes[sandbox.folder.sandbox_id] = resumed

    async def _end(self, sandbox_id: str, sandbox: SandboxShim) -> None:
        await sandbox.end()
        if not sandbox.folder.path.exists():
            self._sandboxes.pop(sandbox_id, None)

    async def _check_leftovers(self, sandbox_id: str) -> None:
        try:
            left = await self._binary.remove_leftovers(sandbox_id)
        except OSError as error:
            left = [str(error)]
        if left:
            raise Unavailable(f"no shim of sandbox {sandbox_id} is known, and these leftovers remain: {'; '.join(left)}")

    def _out_of_memory(self, container_id: str) -> None:
        if (sandbox := self._holder(container_id)) is not None:
            sandbox.task(container_id).note_oom()

    def _holder(self, container_id: str) -> SandboxShim | None:
        for sandbox in self._sandboxes.values():
            if _is_there(sandbox) and sandbox.result().holds(container_id):
                return sandbox.result()
        return None


def _is_there(sandbox: asyncio.Future[SandboxShim]) -> bool:
    return sandbox.done() and not sandbox.cancelled() and not sandbox.exception()
