"""Containers that are children of ours, for callers who stay as long as their containers do.

Nobody holds anything for them while we are away: their streams are the caller's named pipes, or a terminal whose master side is
here, and their end is seen here. So they cost no monitor each. containerd is such a caller: it takes tasks whose shim went away
for dead, and has them ended.
"""

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path

import attrs

from crishim.backends.runc.command import RuntimeCommand
from crishim.backends.runc.exec import AdoptedChild, ConsoleSocket
from crishim.errors import Unavailable
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import Stdio
from crishim.linux.children import children
from crishim.logs.execution import ExecStreams
from crishim.model.process import Exit
from crishim.monitor.pidfd import read_pid
from crishim.monitor.pipes import opened
from crishim.oci.cgroups import Cgroups


@attrs.frozen
class Attended:
    """One container. `ended` is done with its exit; `master` is our side of its terminal, if it has one."""

    ended: "asyncio.Task[Exit]"
    master: int | None = None


class AttendedContainers:
    """All of one runtime. We must be a child subreaper."""

    def __init__(self, command: RuntimeCommand, cgroups: Cgroups) -> None:
        self._command = command
        self._cgroups = cgroups
        self._held: dict[str, Attended] = {}

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._held

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """As `OciRuntime.create`. Raises `InvalidArgument` for a pipe that is not there."""
        args = ("create", f"--bundle={bundle}", f"--pid-file={bundle / 'pidfile'}")
        master = None
        with children.expecting():
            if stdio.terminal:
                master = await self._create_with_terminal(container_id, args)
            else:
                with opened(stdio) as ends:
                    await self._command.start_detached(container_id, [*args, container_id], ends)
            pid = read_pid(bundle / "pidfile")
            child = AdoptedChild(pid)
        ended = asyncio.get_running_loop().create_task(self._end_of(child, self._cgroups.of(pid)))
        self._held[container_id] = Attended(ended, master)
        return pid

    async def wait(self, container_id: str) -> Exit | None:
        """As `OciRuntime.wait`; None for a container that is not ours."""
        held = self._held.get(container_id)
        return None if held is None else await asyncio.shield(held.ended)

    async def attach(self, container_id: str, io: ProcessIO) -> None:
        """Copy the streams of a terminal until the container has ended. Raises `Unavailable` without one."""
        held = self._held.get(container_id)
        if held is None or held.master is None:
            raise Unavailable(f"{container_id} has no terminal here")
        streams = ExecStreams(io, tty=True)
        with contextlib.closing(streams):
            streams.adopt_terminal(os.dup(held.master))
            await streams.copy(lambda: _until(held.ended))

    def forget(self, container_id: str) -> None:
        """The container is gone."""
        held = self._held.pop(container_id, None)
        if held is not None and held.master is not None:
            os.close(held.master)

    async def _create_with_terminal(self, container_id: str, args: tuple[str, ...]) -> int:
        with tempfile.TemporaryDirectory(prefix="tty") as folder:
            async with ConsoleSocket(Path(folder) / "console") as console:
                await self._command.run(container_id, *args, f"--console-socket={console.path}", container_id)
                return await console.terminal()

    async def _end_of(self, child: AdoptedChild, cgroup: str) -> Exit:
        end = await child.exit()
        oom = await asyncio.to_thread(self._cgroups.killed_for_memory, cgroup)
        return attrs.evolve(end, oom=oom)


async def _until(ended: "asyncio.Task[Exit]") -> None:
    await asyncio.wait({ended})
