"""What a monitor is: what runs a runtime's create, and has the container's streams, log and exit while the server is away.

A runtime has one of two, `conmon` (a process for each container) and the keeper (one for all). Whose a container is stands in
its bundle, so that a restart with the other one loses nobody.
"""

import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import Protocol

from crishim.errors import NotFound, from_os_error
from crishim.interfaces.capabilities import ProcessIO
from crishim.linux.children import children
from crishim.linux.processes import Identity
from crishim.model.process import Exit
from crishim.monitor.conmon import MonitorRequest


class PreparedContainer(Protocol):
    """A container that is not created yet. Either `create` or `leave` is called, once."""

    @abstractmethod
    async def create(self, cgroups: tuple[Path, ...], *, timeout: float = 100.0) -> int:
        """Create the container; return the pid of its first process. A monitor of its own is put into the cgroups.

        Raises `CreateRefused` with the runtime's words, `Unknown` where the monitor fails, and `DeadlineExceeded`.
        """

    @abstractmethod
    async def leave(self) -> None:
        """There will be no container."""


class Monitor(Protocol):
    """Creates containers, and finds them again after a restart by what lies in their bundles."""

    @abstractmethod
    async def begin(self, request: MonitorRequest) -> PreparedContainer:
        """Prepare a creation: of the bundle only the folder must be there."""

    @abstractmethod
    def alive(self, bundle: Path, container_id: str) -> bool | None:
        """As `SupportsLiveness.alive`."""

    @abstractmethod
    async def wait(self, bundle: Path, container_id: str) -> Exit:
        """Return when the container has ended. Sticky. Unknown if its monitor died before it."""

    @abstractmethod
    async def attach(self, bundle: Path, sockets: Path, container_id: str, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`. Raises `Unavailable` where the monitor has died."""

    @abstractmethod
    async def reopen(self, bundle: Path, container_id: str, log: Path) -> None:
        """Open the log anew, whose folder is created where it is missing, and return when the file is there.

        Raises `ResourceExhausted` or `PermissionDenied` where that is not possible, and `Unavailable` where the monitor has
        died.
        """

    @abstractmethod
    async def clear(self, bundle: Path, container_id: str, cgroups: tuple[Path, ...]) -> None:
        """Free what is the monitor's of a container that is deleted."""


def exit_of(bundle: Path) -> Exit | None:
    """How a container ended, as its monitor has left it; None while it has not."""
    try:
        file = bundle / "exit"
        code = int(file.read_text(encoding="ascii"))
        at = file.stat().st_mtime_ns
    except (OSError, ValueError):
        return None
    return Exit(code=code, at=at, oom=(bundle / "oom").exists())


async def unmonitored_exit(first: Identity) -> Exit | None:
    """The exit of a container whose monitor has died: it is known if its first process became our child then."""
    with children.expecting():
        try:
            child = children.adopt(first.pid)
        except NotFound:
            return None
    if child.identity != first:
        child.disown()
        return None
    try:
        await child.ended()
        code = child.collect()
    finally:
        child.disown()
    return None if code is None else Exit.from_returncode(code)


def make_log_folder(folder: Path) -> None:
    """Create a folder, and check that a file can be created in it. Raises what `from_os_error` says."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise from_os_error(error, f"the log folder {folder}") from error
