"""The contract for authors who run OCI bundles.

`pods.OciPodBackend` makes a `Backend` of an `OciRuntime`; the shim v2 server calls one directly. The operations are the OCI
runtime specification's five, and a wait. Ids are the caller's; at most one operation is under way per id, waits beside it.

What a runtime may have beyond is one protocol each, which it has by its verbs: those below, and `SupportsAttach`,
`SupportsLogReopen` and `SupportsPause` of a `Backend`.
"""

import enum
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import attrs

from crishim.interfaces.backend import BackendInfo
from crishim.interfaces.capabilities import ProcessIO, SupportsAttach, SupportsLeftovers, SupportsLogReopen, SupportsPause
from crishim.model.process import Exit
from crishim.model.stats import CgroupUsage

FIRST_PROCESS: Final = "process"
"""The file of a bundle with the pid that `create` returned, and the process's start time.

Whoever called `create` writes it (pods, the shim server). No other file of a bundle is read for a pid.
"""


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
        """Create what `bundle`/config.json describes; return the pid of its first process, which does not run the program yet.

        The caller records the pid (`FIRST_PROCESS`); the runtime need not write it anywhere. Raises `CreateRefused` where the
        runtime has said no: of a pod's container the creation then succeeds, and its start fails with the message.
        """

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
class SupportsPrepare(Protocol):
    """Optional: a creation begins while its bundle is still being written, for instance with the start of a monitor.

    `pods.OciPodBackend` calls it before the `create` of each container. Without it `create` does the whole work.
    """

    @abstractmethod
    async def prepare(self, container_id: str, bundle: Path, stdio: Stdio) -> None:
        """Begin a creation; `bundle` is a folder that may be empty yet. `create` with the same arguments follows, or `delete`.

        An error fails the creation.
        """


@runtime_checkable
class SupportsLiveness(Protocol):
    """Optional: the files of a bundle tell whether its first process runs.

    `pods.OciPodBackend` calls it in its inventory, once for each bundle. Without it the inventory calls `state`, which starts
    a process for each bundle where the runtime is a program.
    """

    @abstractmethod
    def alive(self, container_id: str, bundle: Path) -> bool | None:
        """Whether the first process of the bundle's container runs; None if the files do not tell, then `state` is called.

        Runs on the event loop: read a few small files, and start no process. Raises nothing.
        """


@runtime_checkable
class SupportsRelease(Protocol):
    """Optional: what the runtime holds of a container that has ended can be freed before the container is deleted.

    `pods.OciPodBackend` calls it in the background as soon as a container has ended, so that RemoveContainer, which comes
    later, has less to do. Without it `delete` does the whole work.
    """

    @abstractmethod
    async def release(self, container_id: str) -> None:
        """Free what is not needed for `state`, `wait` and `delete`, which answer as before. Repeatable.

        An error is logged, and leaves everything to `delete`. No `delete` comes while it runs.
        """


@runtime_checkable
class SupportsExecProcess(Protocol):
    """Optional: further processes in a running container, which pods and the shim server both run by this one verb.

    `pods.OciPodBackend` calls it for ExecSync and Exec, with the process of the container's config.json and the arguments and
    terminal of the request; so a pod backend claims `SupportsExec` where its runtime has this. The shim server calls it at
    the Start of an exec, with the process that containerd sent. Without it both answer UNIMPLEMENTED.
    """

    @abstractmethod
    async def exec_process(
        self, container_id: str, process: Mapping[str, Any], io: ProcessIO, started: Callable[[int], None]
    ) -> Exit:
        """Run `process`, and return when it has ended and all its output was written to `io`.

        `process` is the object of that name in the runtime specification's config.json (args, env, cwd, user, terminal, ...),
        complete. `started` is called once, with the pid as the node has it, as soon as the process runs.

        Cancelled when the time is up or the container is deleted: every process of the exec must be killed before the
        cancellation is passed on. Raises `InvalidArgument` for a program that cannot be run, unless that exits with 126 or 127
        as in a shell; `NotFound` for a container that is not there.
        """


@runtime_checkable
class SupportsUpdateResources(Protocol):
    """Optional: the limits of a container can change.

    `pods.OciPodBackend` calls it for UpdateContainerResources, and claims `SupportsUpdate` where its runtime has this; the shim
    server calls it for Update. Without it both answer UNIMPLEMENTED.
    """

    @abstractmethod
    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """Make `resources`, the runtime specification's `linux.resources`, the container's limits.

        What `resources` does not have stays as it is. Raises `NotFound`, or what the runtime refuses; some limits may have
        changed then, and the caller sets the former ones again.
        """


@runtime_checkable
class SupportsCgroupUsage(Protocol):
    """Optional: the runtime reports a container's usage, since its processes are in no cgroup of the node (gVisor, VMs).

    `pods.MeasuredPods` calls it for the stats and metrics of containers, about every ten seconds for each, and for the sum of
    a pod that has no cgroup of its own. Without it the cgroup that config.json names is read.
    """

    @abstractmethod
    async def cgroup_usage(self, container_id: str) -> CgroupUsage:
        """A running container's usage. Raises `NotFound` for one that has ended."""


@runtime_checkable
class SupportsCheckpointRestore(Protocol):
    """Optional: the processes of a container are written to files, and go on out of them.

    `pods.OciPodBackend` makes the archives of CheckpointContainer and CheckpointPod with it, and claims `SupportsCheckpoint`
    where its runtime has this and `SupportsPause`. Without it they answer UNIMPLEMENTED.
    """

    @abstractmethod
    async def require_checkpoints(self) -> None:
        """Raises `Unimplemented`, with how to get it, where what checkpoints need is missing on this machine."""

    @abstractmethod
    async def dump_images(self, container_id: str, images: Path, work: Path) -> None:
        """Write the state of all processes into the folder `images`; logs and statistics go into the folder `work`.

        The container is frozen (`pause_container`), and stays so. Raises `Unknown` with the reason for what cannot be dumped.
        """

    @abstractmethod
    async def restore_images(self, container_id: str, bundle: Path, stdio: Stdio, images: Path) -> int:
        """As `create` and `start` in one: the processes of `images` run in the container that `bundle`/config.json describes.

        Returns the pid of the first process. `images` is not needed afterwards. Raises `Unknown` with the reason.
        """


RUNTIME_CAPABILITIES: Final[tuple[type, ...]] = (
    SupportsPrepare,
    SupportsLiveness,
    SupportsRelease,
    SupportsExecProcess,
    SupportsUpdateResources,
    SupportsCgroupUsage,
    SupportsCheckpointRestore,
    SupportsAttach,
    SupportsLogReopen,
    SupportsPause,
    SupportsLeftovers,
)
"""All that a runtime may have beside `OciRuntime`; the last four are those of a `Backend`, with the same verbs."""
