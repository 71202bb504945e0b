"""The protocol for runtimes of OCI bundles.

`pods.OciPodBackend` builds a `Backend` from an `OciRuntime`; the shim v2 server calls one directly. The operations are the
five of the OCI runtime specification, and a wait. The caller chooses the ids; at most one operation is under way per id, and
waits run beside it. Each optional ability is a protocol that a runtime claims by having its verbs: those below, and
`SupportsAttach`, `SupportsLogReopen` and `SupportsPause` of a `Backend`.
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
from crishim.model.sandbox import SandboxSpec
from crishim.model.stats import CgroupUsage

__all__ = [
    "FIRST_PROCESS",
    "RUNTIME_CAPABILITIES",
    "OciRuntime",
    "OciState",
    "OciStatus",
    "Stdio",
    "SupportsCgroupUsage",
    "SupportsCheckpointRestore",
    "SupportsExecProcess",
    "SupportsLiveness",
    "SupportsPrepare",
    "SupportsRelease",
    "SupportsSandbox",
    "SupportsUpdateResources",
]

FIRST_PROCESS: Final = "process"
"""The file in a bundle with the pid that `create` returned, and that process's start time.

The caller of `create` writes it (pods, the shim server). No other file of a bundle is read for a pid.
"""


class OciStatus(enum.StrEnum):
    """The states of the runtime specification."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"


@attrs.frozen(kw_only=True)
class OciState:
    """The result of `state`; `pid` is 0 unless the status is created, running or paused."""

    id: str
    status: OciStatus
    pid: int = 0
    bundle: str = ""


@attrs.frozen(kw_only=True)
class Stdio:
    """The container's streams.

    With `log_path` the runtime's monitor writes a CRI log file and listens on an attach socket, also while the caller is not
    running. The three paths are named pipes that become the process's own streams; with `terminal` the caller copies them, and
    there is no stderr. With `monitored_by_parent` the caller runs for as long as the container does, so that no other process
    need keep the pipes open.
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
    """Runs OCI bundles."""

    @abstractmethod
    async def probe(self) -> BackendInfo:
        """As `Backend.probe`."""

    @abstractmethod
    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """Create the container that `bundle`/config.json describes; return the pid of its first process, which does not run
        the program yet.

        The caller records the pid (`FIRST_PROCESS`); the runtime need not write it anywhere. Raises `CreateRefused` if the
        runtime itself reports an error: a pod's container is then created all the same, and its start fails with the message.
        """

    @abstractmethod
    async def start(self, container_id: str) -> None:
        """Run the program in the created process."""

    @abstractmethod
    async def state(self, container_id: str) -> OciState:
        """The state of the container. Raises `NotFound`."""

    @abstractmethod
    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        """Send a signal to the first process, or with `everyone` to all."""

    @abstractmethod
    async def delete(self, container_id: str) -> None:
        """Delete the container, killing what still runs, and free all its resources. Raises `NotFound`.

        It is also called for containers of an earlier object over the same state: after a crash of the daemon the next one
        ends them. What the runtime needs for that it must write to files; `NotFound` means that no process of the container is
        left.
        """

    @abstractmethod
    async def wait(self, container_id: str) -> Exit:
        """As `Backend.wait_container`."""


@runtime_checkable
class SupportsPrepare(Protocol):
    """Optional: begins a creation while its bundle is still being written, for instance by starting a monitor.

    `pods.OciPodBackend` calls it before the `create` of each container. Without it `create` does the whole work.
    """

    @abstractmethod
    async def prepare(self, container_id: str, bundle: Path, stdio: Stdio) -> None:
        """Begin a creation; `bundle` is a folder that may still be empty. `create` with the same arguments follows, or
        `delete`.

        An error fails the creation.
        """


@runtime_checkable
class SupportsLiveness(Protocol):
    """Optional: reads from the files of a bundle whether its first process runs.

    `pods.OciPodBackend` calls it in its inventory, once for each bundle. Without it the inventory calls `state`, which starts
    a process for each bundle where the runtime is a program.
    """

    @abstractmethod
    def alive(self, container_id: str, bundle: Path) -> bool | None:
        """Whether the first process of the bundle's container runs; None if the files do not show it, and `state` is then
        called.

        Runs on the event loop: read a few small files, and start no process. Raises nothing.
        """


@runtime_checkable
class SupportsRelease(Protocol):
    """Optional: frees resources of a container that has exited before the container is deleted.

    `pods.OciPodBackend` calls it in the background as soon as a container has exited, so that the later RemoveContainer has
    less to do. Without it `delete` does the whole work.
    """

    @abstractmethod
    async def release(self, container_id: str) -> None:
        """Free what is not needed for `state`, `wait` and `delete`, which return the same as before. Repeatable.

        An error is logged, and leaves everything to `delete`. `delete` is not called while it runs.
        """


@runtime_checkable
class SupportsExecProcess(Protocol):
    """Optional: further processes in a running container.

    `pods.OciPodBackend` calls it for ExecSync and Exec, with the process of the container's config.json and the arguments and
    terminal of the request; a pod backend then claims `SupportsExec`. The shim server calls it at the Start of an exec, with
    the process that containerd sent. Without it both answer UNIMPLEMENTED.
    """

    @abstractmethod
    async def exec_process(
        self, container_id: str, process: Mapping[str, Any], io: ProcessIO, started: Callable[[int], None]
    ) -> Exit:
        """Run `process`, and return when it has exited and all its output is written to `io`.

        `process` is the object of that name in the runtime specification's config.json (args, env, cwd, user, terminal, ...),
        complete. Call `started` once, with the pid in the node's pid namespace, as soon as the process runs.

        Cancelled at a timeout or when the container is deleted: every process of the exec must be killed before the
        cancellation is passed on. Raises `InvalidArgument` for a program that cannot be run, unless it exits with 126 or 127
        as in a shell; `NotFound` for a container that does not exist.
        """


@runtime_checkable
class SupportsUpdateResources(Protocol):
    """Optional: changes the limits of a container.

    `pods.OciPodBackend` calls it for UpdateContainerResources, and then claims `SupportsUpdate`; the shim server calls it for
    Update. Without it both answer UNIMPLEMENTED.
    """

    @abstractmethod
    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """Set the container's limits to `resources`, the runtime specification's `linux.resources`.

        A limit that `resources` does not contain stays as it is. Raises `NotFound`, or the runtime's refusal; some limits may
        then have changed, and the caller sets the previous ones again.
        """


@runtime_checkable
class SupportsCgroupUsage(Protocol):
    """Optional: reports a container's usage, for runtimes whose processes are in no cgroup of the node (gVisor, VMs).

    `pods.MeasuredPods` calls it for the stats and metrics of containers, about every ten seconds for each, and for the sum of
    a pod without a cgroup of its own. Without it the cgroup that config.json names is read.
    """

    @abstractmethod
    async def cgroup_usage(self, container_id: str) -> CgroupUsage:
        """The usage of a running container. Raises `NotFound` after its exit."""


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


@runtime_checkable
class SupportsSandbox(Protocol):
    """Optional: a pod is an object of the runtime's own, for instance a virtual machine or a user-space kernel.

    The shim server calls it for containerd's Sandbox service (a handler with `sandboxer = "shim"`). Without it, a container
    that the runtime creates stands for the pod: a pause program with the pod's namespaces.
    """

    @abstractmethod
    async def start_sandbox(self, spec: SandboxSpec, bundle: Path) -> int:
        """Start the sandbox of a pod; its containers are created afterwards. `bundle` is an empty folder of the sandbox's own.

        Returns the pid of a process on the node that has the pod's namespaces: containerd writes its namespaces into the
        config.json of the pod's containers. What `stop_sandbox` needs in another process must be in files. After an error,
        `stop_sandbox` is called.
        """

    @abstractmethod
    async def stop_sandbox(self, sandbox_id: str) -> None:
        """End the sandbox and free all its resources; its containers have been deleted, or end with it. Repeatable.

        It is also called for sandboxes of an earlier object over the same state. Raises `NotFound`.
        """

    @abstractmethod
    async def wait_sandbox(self, sandbox_id: str) -> Exit:
        """Return when the sandbox has ended, by itself or by `stop_sandbox`. Raises `NotFound`."""


RUNTIME_CAPABILITIES: Final[tuple[type, ...]] = (
    SupportsPrepare,
    SupportsLiveness,
    SupportsRelease,
    SupportsExecProcess,
    SupportsUpdateResources,
    SupportsCgroupUsage,
    SupportsCheckpointRestore,
    SupportsSandbox,
    SupportsAttach,
    SupportsLogReopen,
    SupportsPause,
    SupportsLeftovers,
)
"""Every optional protocol of a runtime; the last four are those of a `Backend`, with the same verbs."""
