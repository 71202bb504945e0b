"""OciRuntimes over a runc-compatible command line, with a monitor (conmon or the keeper), or none if the parent monitors them.

All state is in the runtime's state folder, the monitor's files and the bundle; after a restart the runtime reports the path
of a container's bundle. Only for containers monitored by this process (`Stdio.monitored_by_parent`) exits and terminals are in
memory.
"""

import asyncio
import contextlib
import json
import logging
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.backends.runc.cgroup_warmup import CgroupWarmup
from crishim.backends.runc.command import Features, RuntimeCommand
from crishim.backends.runc.exec import AdoptedChild, ChildContainers, ConsoleSocket
from crishim.backends.runc.monitor_scopes import MonitorScopes
from crishim.errors import CrishimError, DataLoss, InvalidArgument, NotFound
from crishim.interfaces.backend import BackendInfo, NetnsSource
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.keeper import Keeper
from crishim.interfaces.oci_runtime import FIRST_PROCESS, OciState, OciStatus, Stdio
from crishim.linux import oom, processes
from crishim.linux.cgroups import Cgroups
from crishim.linux.children import children
from crishim.linux.processes import read_pid
from crishim.logs.execution import ExecStreams
from crishim.logs.stdio import ChildEnds
from crishim.model.process import Exit
from crishim.model.values import ContainerId
from crishim.monitor.client import ConmonMonitor
from crishim.monitor.conmon import MonitorRequest, has_pipes
from crishim.monitor.interface import Monitor, PreparedContainer, exit_of
from crishim.monitor.keeper import KeeperMonitor
from crishim.oci.facts import Host
from crishim.pods.bundle import read_config
from crishim.pods.oom import may_have_killed

_log = logging.getLogger(__name__)

CONMON: Final = "conmon"
KEEPER: Final = "keeper"
"""The monitors that containers can be created with."""

_START_TIMEOUT: Final = 1.0
"""Seconds for which an abandoned start of an exec may continue; in a paused container it never ends."""


_END_TIMEOUT: Final = 1.0
"""Seconds to wait for the end of a killed process; a frozen one does not end before the runtime thaws it."""

_RELEASED: Final = "released"
"""A file of a bundle: the runtime's own state of the container is deleted."""


class MonitoredRuntime:
    """The verbs common to all such runtimes. `sockets`: a folder with a short path for sockets.

    `monitor` is what new containers are created with; older ones have what they were created with.
    """

    def __init__(
        self, command: RuntimeCommand, sockets: Path, host: Host, keeper: Keeper | None = None, *, monitor: str = CONMON
    ) -> None:
        self._command = command
        self._sockets = sockets
        self._host = host
        self._conmon = ConmonMonitor()
        self._keeper = None if keeper is None else KeeperMonitor(keeper)
        self._by_keeper = monitor == KEEPER
        self._cgroups = Cgroups(v2=host.cgroup_v2)
        self._bundles: dict[str, Path] = {}
        self._waiting: dict[str, PreparedContainer] = {}
        self._scopes = MonitorScopes(self._cgroups)
        self._killed: set[str] = set()
        self._moves = CgroupWarmup(self._cgroups)

    async def probe(self) -> BackendInfo:
        """The runtime's name and version. Raises `FailedPrecondition` if it is not installed."""
        version, able = await self._ability()
        return BackendInfo(
            name=self._command.name,
            version=version,
            netns=NetnsSource.LIBRARY,
            supported=able.supported,
            features=able.advertised,
        )

    async def prepare(self, container_id: str, bundle: Path, stdio: Stdio) -> None:
        """As `SupportsPrepare.prepare`: starts a monitor, which takes some milliseconds."""
        await self._begin(self._request(container_id, bundle, stdio))

    def _request(self, container_id: str, bundle: Path, stdio: Stdio) -> MonitorRequest:
        program, args = self._monitored()
        return MonitorRequest(
            container_id=container_id,
            bundle=bundle,
            runtime=program,
            runtime_args=args,
            systemd_cgroup=self._command.systemd_cgroup,
            sockets=self._sockets,
            stdio=stdio,
        )

    async def _begin(self, request: MonitorRequest) -> None:
        self._moves.soon()
        self._sockets.mkdir(parents=True, exist_ok=True)
        if request.stdio.log_path:
            Path(request.stdio.log_path).parent.mkdir(parents=True, exist_ok=True)
        keeper = self._keeper if self._by_keeper and not has_pipes(request.stdio) else None
        monitor: Monitor = self._conmon if keeper is None else keeper
        self._waiting[request.container_id] = await monitor.begin(request)

    def _monitor(self, bundle: Path) -> Monitor:
        """The monitor that has a bundle's container."""
        return self._keeper if self._keeper is not None and self._keeper.has(bundle) else self._conmon

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """As `OciRuntime.create`. The container has a monitor also with `monitored_by_parent`."""
        if container_id not in self._waiting:
            await self.prepare(container_id, bundle, stdio)
        return await self._finish(container_id, bundle)

    async def _finish(self, container_id: str, bundle: Path) -> int:
        """Have the prepared monitor create its container. Returns the pid of the first process."""
        with self._command.span("create", container_id):  # the monitor runs it
            pid = await self._waiting.pop(container_id).create(self._monitor_cgroups(bundle))
        self._bundles[container_id] = bundle
        if self._command.systemd_cgroup:
            self._scopes.begin(container_id, bundle)
        return pid

    async def start(self, container_id: str) -> None:
        """As `OciRuntime.start`."""
        await self._command.run(container_id, "start", container_id)

    async def state(self, container_id: str) -> OciState:
        """As `OciRuntime.state`."""
        if (bundle := self._bundles.get(container_id)) is not None and (bundle / _RELEASED).exists():
            return OciState(id=container_id, status=OciStatus.STOPPED, pid=0, bundle=str(bundle))
        state = await self._command.json(container_id, "state", container_id)
        return OciState(
            id=container_id,
            status=OciStatus(state["status"]),
            pid=int(state.get("pid", 0)),
            bundle=str(state.get("bundle", "")),
        )

    async def kill(self, container_id: str, number: int, *, everyone: bool = False) -> None:
        """As `OciRuntime.kill`."""
        if number == signal.SIGKILL:
            self._killed.add(container_id)
        try:
            await self._command.run(container_id, "kill", *(("--all",) if everyone else ()), container_id, str(number))
        except CrishimError:  # it has ended already
            self._killed.discard(container_id)
            raise

    async def delete(self, container_id: str) -> None:
        """As `OciRuntime.delete`. An interrupted creation may have left more than the runtime's state names."""
        if (waiting := self._waiting.pop(container_id, None)) is not None:
            await waiting.leave()
        try:
            bundle = await self._bundle(container_id)
        except NotFound:
            await self._command.run(container_id, "delete", "--force", container_id)
            if self._keeper is not None:
                await self._keeper.forget(container_id)
            raise
        if not (bundle / _RELEASED).exists():
            await self._delete_state(container_id, bundle)
        await self._monitor(bundle).clear(bundle, container_id, self._monitor_cgroups(bundle))
        if self._command.systemd_cgroup:
            await self._scopes.end(container_id, bundle)
        self._bundles.pop(container_id, None)
        self._killed.discard(container_id)

    async def _delete_state(self, container_id: str, bundle: Path) -> None:  # noqa: ARG002 - for subclasses
        """Have the runtime kill and delete a container."""
        await self._command.run(container_id, "delete", "--force", container_id)

    async def wait(self, container_id: str) -> Exit:
        """As `OciRuntime.wait`."""
        bundle = await self._bundle(container_id)
        end = await self._monitor(bundle).wait(bundle, container_id)
        killed = await asyncio.to_thread(self._killed_for_memory, container_id, bundle, end)
        return attrs.evolve(end, oom=killed)

    def alive(self, container_id: str, bundle: Path) -> bool | None:
        """As `SupportsLiveness.alive`."""
        self._bundles[container_id] = bundle
        return self._monitor(bundle).alive(bundle, container_id)

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""
        bundle = await self._bundle(container_id)
        await self._monitor(bundle).attach(bundle, self._sockets, container_id, io)

    async def reopen_log(self, container_id: ContainerId) -> None:
        """As `SupportsLogReopen.reopen_log`."""
        bundle = await self._bundle(container_id)
        log = (bundle / "log-path").read_text(encoding="utf-8")
        if log:
            await self._monitor(bundle).reopen(bundle, container_id, Path(log))

    async def exec_process(
        self, container_id: str, process: Mapping[str, Any], io: ProcessIO, started: Callable[[int], None]
    ) -> Exit:
        """As `SupportsExecProcess.exec_process`: the runtime's exec, detached, with our pipes.

        This process must be a child subreaper. The runtime creates a terminal, and passes it through a socket. A runtime that
        is killed while it starts an exec may leave the process in the container, unknown to anybody: an abandoned start may
        therefore complete within `_START_TIMEOUT` seconds, and its process is then killed.
        """
        self._moves.soon()
        terminal = bool(process.get("terminal"))
        streams = ExecStreams(io, tty=terminal)
        with tempfile.TemporaryDirectory(prefix="exec") as name, contextlib.closing(streams):
            folder = Path(name)
            (folder / "process.json").write_bytes(json.dumps(process, ensure_ascii=False).encode("utf-8", "surrogateescape"))
            starting = asyncio.create_task(self._start_exec(container_id, folder, streams, process))
            try:
                child = await asyncio.shield(starting)
            except asyncio.CancelledError:
                await self._end_start(starting)
                raise
            started(read_pid(folder / "pid"))
            return await child.accompany(streams)

    async def _start_exec(
        self, container_id: str, folder: Path, streams: ExecStreams, process: Mapping[str, Any]
    ) -> AdoptedChild:
        args = self._exec_args(folder)
        with children.expecting():
            try:
                if process.get("terminal"):
                    async with ConsoleSocket(folder / "console") as console:
                        await self._run_exec(container_id, process, [*args, f"--console-socket={console.path}"], None)
                        streams.adopt_terminal(await console.terminal())
                else:
                    await self._run_exec(container_id, process, args, streams.open())
            except BaseException:  # cancelled, or without a terminal: the process may exist nevertheless
                await self._adopted(container_id, folder).end()
                raise
            return self._adopted(container_id, folder)

    async def _end_start(self, starting: asyncio.Task[AdoptedChild]) -> None:
        await asyncio.wait({starting}, timeout=_START_TIMEOUT)
        starting.cancel()
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            await starting.result().end()

    def _killed_for_memory(self, container_id: str, bundle: Path, end: Exit) -> bool:
        """Whether the OOM killer has ended the first process, and not only another one.

        The kernel's log is certain, but its record may have been overwritten. The monitor's `oom` file, missing where systemd
        was faster, and the pod's counter are about other processes as well: they count unless we have killed the container.
        """
        killed = container_id in self._killed
        if end.code != 128 + signal.SIGKILL or (killed and not end.oom):
            return False
        first = processes.recorded(bundle / FIRST_PROCESS)
        known = None if first is None else oom.killed_for_memory(first)
        if known or killed:
            return bool(known)
        return end.oom or (known is None and may_have_killed(self._cgroups, self._cgroups_path(bundle)))

    async def _ability(self) -> tuple[str, Features]:
        return await self._command.version(), Features()

    def _cgroups_path(self, bundle: Path) -> str:
        try:
            return str(read_config(bundle).get("linux", {}).get("cgroupsPath", ""))
        except DataLoss:  # the creation was interrupted before config.json was written
            return ""

    def _monitor_cgroups(self, bundle: Path) -> tuple[Path, ...]:
        return self._cgroups.beside(self._cgroups_path(bundle))

    def _monitored(self) -> tuple[str, tuple[str, ...]]:
        """The program that conmon runs as the runtime, and the arguments before its subcommand."""
        program, *args = self._command.line
        return program, tuple(args)

    def _exec_args(self, folder: Path) -> list[str]:
        return ["exec", "--detach", f"--pid-file={folder / 'pid'}", f"--process={folder / 'process.json'}"]

    def _adopted(self, container_id: str, folder: Path) -> AdoptedChild:  # noqa: ARG002 - gVisor needs the container too
        return AdoptedChild(read_pid(folder / "pid"))

    async def _run_exec(self, container_id: str, process: Mapping[str, Any], args: list[str], ends: ChildEnds | None) -> None:
        score = process.get("oomScoreAdj")
        try:
            await self._command.start_detached(container_id, [*args, container_id], ends, oom_score_adj=score)
        except NotFound as error:
            if (await self.state(container_id)).status is OciStatus.RUNNING:
                raise InvalidArgument("cmd", f"{process['args'][0]!r} is not a program in the container") from error
            raise

    async def _bundle(self, container_id: str) -> Path:
        bundle = self._bundles.get(container_id)
        if bundle is None:
            bundle = self._bundles[container_id] = Path((await self.state(container_id)).bundle)
        return bundle


class RuncRuntime(MonitoredRuntime):
    """Runs bundles with runc, crun or youki; in addition it freezes containers and changes their limits.

    A container with `monitored_by_parent` has no monitor.
    """

    def __init__(
        self, command: RuntimeCommand, sockets: Path, host: Host, keeper: Keeper | None = None, *, monitor: str = CONMON
    ) -> None:
        super().__init__(command, sockets, host, keeper, monitor=monitor)
        self._attended = ChildContainers(command, self._cgroups)

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """As `OciRuntime.create`."""
        if not stdio.monitored_by_parent:
            return await super().create(container_id, bundle, stdio)
        self._moves.soon()
        self._bundles[container_id] = bundle
        return await self._attended.create(container_id, bundle, stdio)

    async def wait(self, container_id: str) -> Exit:
        """As `OciRuntime.wait`."""
        end = await self._attended.wait(container_id)
        return await super().wait(container_id) if end is None else end

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""
        if container_id in self._attended:
            await self._attended.attach(container_id, io)
        else:
            await super().attach(container_id, io)

    async def delete(self, container_id: str) -> None:
        """As `OciRuntime.delete`."""
        try:
            await super().delete(container_id)
        except NotFound:
            self._attended.forget(container_id)
            raise
        self._attended.forget(container_id)

    async def release(self, container_id: str) -> None:
        """As `SupportsRelease.release`: deletes the runtime's state; the exit and the bundle stay."""
        bundle = await self._bundle(container_id)
        if not (bundle / _RELEASED).exists():
            await self._command.run(container_id, "delete", container_id)
            (bundle / _RELEASED).touch()

    async def _delete_state(self, container_id: str, bundle: Path) -> None:
        """Like the runtime's `delete --force`, which polls for the end every 100 ms (runc 1.2 and later)."""
        if await self._end_first(container_id, bundle):
            try:
                await self._command.run(container_id, "delete", container_id)
            except NotFound:
                return
            except CrishimError as error:
                _log.debug("container %s is deleted with --force: %s", container_id, error)
            else:
                return
        await super()._delete_state(container_id, bundle)

    async def _end_first(self, container_id: str, bundle: Path) -> bool:
        """Kill the first process of a container and wait for its end, up to `_END_TIMEOUT` seconds. Returns whether it has
        ended.
        """
        if container_id not in self._attended and exit_of(bundle) is not None:
            return True
        first = processes.recorded(bundle / FIRST_PROCESS)
        if first is None:
            return False
        self._killed.add(container_id)
        processes.send(first, signal.SIGKILL)
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await self.wait(container_id)
        except (TimeoutError, CrishimError):
            return False
        return True

    async def pause_container(self, container_id: ContainerId) -> None:
        """As `SupportsPause`."""
        await self._command.run(container_id, "pause", container_id)

    async def resume_container(self, container_id: ContainerId) -> None:
        """As `SupportsPause`."""
        await self._command.run(container_id, "resume", container_id)

    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """As `SupportsUpdateResources.update_resources`."""
        wanted = json.dumps(resources).encode()
        await self._command.run(container_id, "update", "--resources", "-", container_id, stdin=wanted)

    async def _ability(self) -> tuple[str, Features]:
        return await self._command.features(self._host.kernel)
