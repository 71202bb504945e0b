"""RuncRuntime: an OciRuntime over a runc-compatible command line, with a conmon per container.

The runtime's own state, conmon's files and the bundle are all the state there is; after a restart of ours everything is found by
the container's id below `bundles`.
"""

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

from crishim.backends.runc.command import RuntimeCommand
from crishim.errors import CrishimError, InvalidArgument, NotFound
from crishim.interfaces.backend import BackendInfo, NetnsSource
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import OciState, OciStatus, Stdio
from crishim.logs.execution import ExecStreams
from crishim.model.honours import OCI
from crishim.model.ids import ContainerId
from crishim.model.process import ExecSpec, Exit
from crishim.model.resources import Resources
from crishim.monitor.client import Monitor, follow_sizes
from crishim.monitor.conmon import MonitorRequest
from crishim.monitor.pidfd import ended
from crishim.oci.facts import Host
from crishim.oci.resources import resources as limits_of
from crishim.oci.spec import process_of


class RuncRuntime:
    """Runs bundles with `command`; `sockets` is a folder with a short path for conmon's attach sockets."""

    def __init__(self, command: RuntimeCommand, sockets: Path, host: Host, monitor: Monitor | None = None) -> None:
        self._command = command
        self._sockets = sockets
        self._host = host
        self._monitor = monitor or Monitor()
        self._bundles: dict[str, Path] = {}

    async def probe(self) -> BackendInfo:
        """The runtime's name and version. Raises `FailedPrecondition` where it is missing."""
        version = await self._command.version()
        return BackendInfo(name=Path(self._command.program).name, version=version, netns=NetnsSource.LIBRARY, honours=OCI)

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """As `OciRuntime.create`."""
        self._sockets.mkdir(parents=True, exist_ok=True)
        if stdio.log_path:
            Path(stdio.log_path).parent.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
        request = MonitorRequest(
            container_id=container_id,
            bundle=bundle,
            runtime=self._command.program,
            runtime_args=(f"--root={self._command.root}",),
            systemd_cgroup=self._command.systemd_cgroup,
            sockets=self._sockets,
            stdio=stdio,
        )
        pid = await self._monitor.create(request)
        self._bundles[container_id] = bundle
        return pid

    async def start(self, container_id: str) -> None:
        """As `OciRuntime.start`."""
        await self._command.run(container_id, "start", container_id)

    async def state(self, container_id: str) -> OciState:
        """As `OciRuntime.state`."""
        told = await self._command.json(container_id, "state", container_id)
        return OciState(
            id=container_id,
            status=OciStatus(told["status"]),
            pid=int(told.get("pid", 0)),
            bundle=str(told.get("bundle", "")),
        )

    async def kill(self, container_id: str, number: int, *, everyone: bool = False) -> None:
        """As `OciRuntime.kill`."""
        await self._command.run(container_id, "kill", *(("--all",) if everyone else ()), container_id, str(number))

    async def delete(self, container_id: str) -> None:
        """As `OciRuntime.delete`."""
        await self._command.run(container_id, "delete", "--force", container_id)
        self._bundles.pop(container_id, None)

    async def wait(self, container_id: str) -> Exit:
        """As `OciRuntime.wait`."""
        return await self._monitor.wait(await self._bundle(container_id), container_id)

    def exit_of(self, bundle: Path) -> Exit | None:
        """How a container ended, if its monitor has said so."""
        return self._monitor.exit_of(bundle)

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""
        bundle = await self._bundle(container_id)
        sizes = asyncio.create_task(follow_sizes(self._monitor, bundle, io.sizes)) if io.sizes is not None else None
        try:
            await self._monitor.attach(self._sockets, container_id, io)
        finally:
            if sizes is not None:
                sizes.cancel()

    async def reopen_log(self, container_id: ContainerId) -> None:
        """As `SupportsLogReopen.reopen_log`."""
        bundle = await self._bundle(container_id)
        log = (bundle / "log-path").read_text(encoding="utf-8")
        if log:
            await self._monitor.reopen(bundle, Path(log))

    async def pause_container(self, container_id: ContainerId) -> None:
        """As `SupportsPause`."""
        await self._command.run(container_id, "pause", container_id)

    async def resume_container(self, container_id: ContainerId) -> None:
        """As `SupportsPause`."""
        await self._command.run(container_id, "resume", container_id)

    async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
        """As `SupportsUpdate.update_container`. Runtimes leave what was done when they fail: the old limits are set again."""
        wanted = json.dumps(limits_of(resources, self._host)).encode()
        await self._command.run(container_id, "update", "--resources", "-", container_id, stdin=wanted)

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        """As `SupportsExec.exec`: the runtime's own exec, with our pipes, in a process group that dies as a whole."""
        bundle = await self._bundle(container_id)
        config: dict[str, Any] = json.loads((bundle / "config.json").read_bytes())
        process = process_of(config, spec.argv, terminal=False)
        if spec.tty and not any(variable.startswith("TERM=") for variable in process["env"]):
            process["env"] = [*process["env"], "TERM=xterm"]
        streams = ExecStreams(io, tty=spec.tty)
        with tempfile.TemporaryDirectory(prefix="exec", dir=bundle) as folder:
            description, pid_file = Path(folder) / "process.json", Path(folder) / "pid"
            description.write_text(json.dumps(process), encoding="utf-8")
            ends = streams.open()
            try:
                return await self._exec(container_id, description, pid_file, ends, streams)
            finally:
                streams.close()
