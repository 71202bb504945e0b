"""The keeper as the monitor of a runtime's containers: it runs the runtime's create, whose process becomes its child.

A bundle with the file `keeper` is its. The files of an exit are conmon's (`interface.exit_of`), so that a container whose
keeper was killed keeps the exit that was seen.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crishim.errors import CreateRefused, DeadlineExceeded, NotFound, Unavailable
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.keeper import Keeper, KeepRequest
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux import processes
from crishim.model.process import Exit
from crishim.monitor.conmon import MonitorRequest, runtime_message, socket_name
from crishim.monitor.interface import exit_of, make_log_folder, unmonitored_exit

_MARK: Final = "keeper"


class KeeperMonitor:
    """A `Monitor` over the node's keeper."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def has(self, bundle: Path) -> bool:
        """Whether a bundle's container is the keeper's."""
        return (bundle / _MARK).exists()

    async def begin(self, request: MonitorRequest) -> "KeeperCreation":
        """As `Monitor.begin`."""
        (request.bundle / _MARK).touch()
        return KeeperCreation(self._keeper, request)

    def alive(self, bundle: Path, container_id: str) -> bool | None:  # noqa: ARG002 - conmon's files name it
        """As `Monitor.alive`: an exit is in its file soon after the process has gone."""
        if exit_of(bundle) is not None:
            return False
        first = processes.recorded(bundle / FIRST_PROCESS)
        return True if first is not None and processes.runs(first) else None

    async def wait(self, bundle: Path, container_id: str) -> Exit:
        """As `Monitor.wait`."""
        end = exit_of(bundle)
        if end is None:
            try:
                end = await self._keeper.wait(container_id)
            except (NotFound, Unavailable):
                if (first := processes.recorded(bundle / FIRST_PROCESS)) is not None:
                    end = await unmonitored_exit(first)
        return exit_of(bundle) or end or Exit.unknown()

    async def attach(self, bundle: Path, sockets: Path, container_id: str, io: ProcessIO) -> None:  # noqa: ARG002 - conmon's
        """As `Monitor.attach`."""
        with _known():
            await self._keeper.attach(container_id, io)

    async def reopen(self, bundle: Path, container_id: str, log: Path) -> None:  # noqa: ARG002 - conmon's
        """As `Monitor.reopen`."""
        make_log_folder(log.parent)
        with _known():
            await self._keeper.reopen_log(container_id)

    async def clear(self, bundle: Path, container_id: str, cgroups: tuple[Path, ...]) -> None:  # noqa: ARG002 - conmon's
        """As `Monitor.clear`."""
        await self.forget(container_id)

    async def forget(self, container_id: str) -> None:
        """Have the keeper forget a container, if it has it."""
        with contextlib.suppress(NotFound, Unavailable):
            await self._keeper.forget(container_id)


class KeeperCreation:
    """A `PreparedContainer` of the keeper."""

    def __init__(self, keeper: Keeper, request: MonitorRequest) -> None:
        self._keeper = keeper
        self._request = request

    async def create(self, cgroups: tuple[Path, ...], *, timeout: float = 100.0) -> int:  # noqa: ARG002 - it has its own
        """As `PreparedContainer.create`."""
        try:
            async with asyncio.timeout(timeout):
                return await self._keeper.keep(keep_request(self._request, os.environ.copy()))
        except CreateRefused as error:
            raise CreateRefused(runtime_message(error.message) or "the runtime failed without a word") from error
        except TimeoutError:
            raise DeadlineExceeded(f"the runtime does not create {self._request.container_id}") from None

    async def leave(self) -> None:
        """As `PreparedContainer.leave`: the keeper does not know the container yet."""


def keep_request(request: MonitorRequest, env: dict[str, str]) -> KeepRequest:
    """What the keeper runs for a container: the runtime's create or restore."""
    bundle, stdio = request.bundle, request.stdio
    pid_file = bundle / "pidfile"
    console = request.sockets / f"{socket_name(request.container_id)}.tty" if stdio.terminal else None
    restore: tuple[str, ...] = ()
    if request.images is not None:
        restore = ("--detach", f"--image-path={request.images}", f"--work-path={bundle}", *request.restore_args)
    return KeepRequest(
        name=request.container_id,
        argv=(
            request.runtime,
            *request.runtime_args,
            *(("--systemd-cgroup",) if request.systemd_cgroup else ()),
            "create" if request.images is None else "restore",
            f"--bundle={bundle}",
            f"--pid-file={pid_file}",
            *restore,
            *((f"--console-socket={console}",) if console else ()),
            request.container_id,
        ),
        env=env,
        cwd=str(bundle),
        log_path=stdio.log_path,
        terminal=stdio.terminal,
        stdin=stdio.keep_stdin,
        stdin_once=stdio.stdin_once,
        folder=bundle,
        pid_file=pid_file,
        console=console,
    )


@contextlib.contextmanager
def _known() -> Iterator[None]:
    """A container that the keeper does not know lost its keeper."""
    try:
        yield
    except NotFound as error:
        raise Unavailable("the container's monitor is gone") from error
