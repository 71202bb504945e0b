"""The second seat: for authors who run OCI bundles.

`oci.OciPodBackend` lifts an `OciRuntime` to a `Backend`; the shim v2 door drives one directly. The operations are the OCI
runtime specification's five, and a wait. Ids are the caller's; at most one operation is under way per id, waits beside it.
"""

import enum
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import attrs

from crishim.interfaces.backend import BackendInfo
from crishim.interfaces.capabilities import ProcessIO
from crishim.model.process import Exit

FIRST_PROCESS: Final = "process"
"""The file of a bundle in which the library keeps which process (pid and start time) the runtime has created."""


class OciStatus(enum.StrEnum):
    """The runtime specification's states."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"


@attrs.frozen(kw_only=True)
class OciState:
    """The answer to `state`; `pid` is 0 unless created, running or paused."""

    id: str
    status: OciStatus
    pid: int = 0
    bundle: str = ""


@attrs.frozen(kw_only=True)
class Stdio:
    """Where a container's streams go.

    `log_path` makes the runtime's monitor write a CRI log file and keep an attach socket, whoever goes away meanwhile. The
    three paths are named pipes that become the process's own streams; with `terminal` the caller copies them, and there is no
    stderr. `monitored_by_parent` tells that the caller stays for as long as the container does: nobody else need hold anything.
    """

    terminal: bool = False
    log_path: str = ""
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    keep_stdin: bool = False
    stdin_once: bool = False
    monitored_by_parent: bool = False


@runtime_checkable
class OciRuntime(Protocol):
    """Runs bundles."""

    @abstractmethod
    async def probe(self) -> BackendInfo:
        """As `Backend.probe`."""

    @abstractmethod
    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """Create what `bundle`/config.json describes, and answer the pid of its first process, which does not run yet."""

    @abstractmethod
    async def start(self, container_id: str) -> None:
        """Run the created process."""

    @abstractmethod
    async def state(self, container_id: str) -> OciState:
        """What it is doing. Raises `NotFound`."""

    @abstractmethod
    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        """Send a signal to the first process, or to all."""

    @abstractmethod
    async def delete(self, container_id: str) -> None:
        """Free everything, killing what still runs. Raises `NotFound`.

        It is called for containers of an earlier object over the same state, too: when a daemon has died, the next one ends
        what it has left. What a runtime needs for that it must write to files; `NotFound` says that no process of it is left.
        """

    @abstractmethod
    async def wait(self, container_id: str) -> Exit:
        """As `Backend.wait_container`."""


@runtime_checkable
class KnowsBundles(Protocol):
    """Optional: tells from a bundle's files alone whether its container lives, so that a restart starts no process for each."""

    @abstractmethod
    def alive(self, container_id: str, bundle: Path) -> bool | None:
        """Whether the first process of a bundle's container lives; None where only `state` can tell. Starts no process."""


@runtime_checkable
class GetsReady(Protocol):
    """Optional: begins a creation while its bundle is still being filled."""

    @abstractmethod
    async def get_ready(self, container_id: str, bundle: Path, stdio: Stdio) -> None:
        """A `create` with these follows, or a `delete`. Of the bundle there is only the folder yet."""


@runtime_checkable
class RunsProcesses(Protocol):
    """What the shim v2 door asks of a runtime for execs: the runtime specification's `process`, as containerd writes it."""

    @abstractmethod
    async def exec_process(
        self, container_id: str, process: Mapping[str, Any], io: ProcessIO, started: Callable[[int], None]
    ) -> Exit:
        """As `SupportsExec.exec`; `started` is called with the pid."""


@runtime_checkable
class UpdatesResources(Protocol):
    """What the shim v2 door asks of a runtime for new limits: the runtime specification's `linux.resources`."""

    @abstractmethod
    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """Make them the container's limits; what is not there stays as it is."""
