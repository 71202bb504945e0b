"""The optional verbs of a backend; each protocol corresponds to a part of CRI.

A backend claims a capability by naming the protocol among its bases, or by having the verbs. A backend that cannot always
serve verbs that it has (a wrapper, pods over a runtime) sets an attribute `capabilities` instead. `capabilities()` reads
either, once, at registration; nothing outside that set is advertised or called.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import attrs

from crishim.model.container import CheckpointOrigin, ContainerCreated, ContainerSpec, ContainerStatus
from crishim.model.process import ExecSpec, Exit, TerminalSize
from crishim.model.resources import Resources
from crishim.model.runtime import PodCheckpoint
from crishim.model.stats import ContainerUsage, SandboxUsage
from crishim.model.values import ContainerId, SandboxId


class ByteReader(Protocol):
    """A readable stream of bytes."""

    @abstractmethod
    async def read(self) -> bytes:
        """The next piece, of any size; empty at the end of the stream, and at every later call."""


class ByteWriter(Protocol):
    """A writable stream of bytes."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Write a piece; return when there is room for another. Raises `BrokenPipeError` when there is no reader any more."""


class ByteStream(ByteReader, ByteWriter, Protocol):
    """A connection whose two directions end separately."""

    @abstractmethod
    async def write_eof(self) -> None:
        """End the writing direction; reading continues."""

    @abstractmethod
    async def close(self) -> None:
        """End both directions and close the connection. May be called twice."""


@attrs.frozen(kw_only=True)
class ProcessIO:
    """The client's ends of a process's streams; None for a stream that the client did not request.

    Output to None is discarded, input from None is empty. `sizes` yields the sizes of the terminal, the first one at once.
    """

    stdin: ByteReader | None = None
    stdout: ByteWriter | None = None
    stderr: ByteWriter | None = None
    sizes: AsyncIterator[TerminalSize] | None = None


@runtime_checkable
class SupportsExec(Protocol):
    """ExecSync and Exec."""

    @abstractmethod
    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        """Run one more process in a running container; return when it has exited and all its output is written to `io`.

        Cancelled at the request's timeout: every process of the exec must be killed before the cancellation is passed on. A
        program that cannot be run raises `InvalidArgument`, or exits with 126 or 127 as in a shell.
        """


@runtime_checkable
class SupportsAttach(Protocol):
    """Attach."""

    @abstractmethod
    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """Connect `io` to the container's own streams from now on, beside other attachments; return when the container has
        exited.

        Cancelled when the client disconnects; the container keeps running. Return early for a client that reads too slowly,
        instead of waiting for it. The end of `io.stdin` closes the container's stdin only if the container was created with
        `stdin_once`.
        """


@runtime_checkable
class SupportsPortForward(Protocol):
    """PortForward, where the library cannot dial inside the pod's network namespace."""

    @abstractmethod
    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        """A TCP connection to `port` on the pod's loopback interface. Raises `Unavailable` when nothing listens."""


@runtime_checkable
class SupportsSandboxWait(Protocol):
    """A sandbox that can end by itself: a virtual machine, a pause process."""

    @abstractmethod
    async def wait_sandbox(self, sandbox_id: SandboxId) -> Exit:
        """Return when the process that the sandbox consists of has ended; otherwise as `wait_container`."""


@runtime_checkable
class SupportsStats(Protocol):
    """The stats and metrics family."""

    @abstractmethod
    async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
        """The usage of one container, running or not. It must be cheap: the kubelet asks for every container each
        ten seconds.
        """

    @abstractmethod
    async def sandbox_usage(self, sandbox_id: SandboxId) -> SandboxUsage:
        """The usage of a whole pod."""


@runtime_checkable
class SupportsUpdate(Protocol):
    """UpdateContainerResources."""

    @abstractmethod
    async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
        """Set the container's limits to `resources`, which is the complete result and not the change; or raise and change
        nothing.
        """


@runtime_checkable
class SupportsSandboxUpdate(Protocol):
    """UpdatePodSandboxResources."""

    @abstractmethod
    async def update_sandbox(self, sandbox_id: SandboxId, overhead: Resources | None, resources: Resources | None) -> None:
        """Take note of new sums of the pod's resources; the kubelet has already written the pod's cgroup."""


@runtime_checkable
class SupportsLogReopen(Protocol):
    """ReopenContainerLog."""

    @abstractmethod
    async def reopen_log(self, container_id: ContainerId) -> None:
        """Create the log file at its path again, since the old one was renamed, and write to it. It must exist on return.

        After an error no new file may remain, since the kubelet renames the old one back.
        """


@runtime_checkable
class SupportsPause(Protocol):
    """Pausing and resuming, for shims and for checkpoints of whole pods."""

    @abstractmethod
    async def pause_container(self, container_id: ContainerId) -> None:
        """Freeze all processes of the container."""

    @abstractmethod
    async def resume_container(self, container_id: ContainerId) -> None:
        """Resume all processes of the container."""


@runtime_checkable
class SupportsCheckpoint(Protocol):
    """CheckpointContainer, CheckpointPod, RestorePod, and CreateContainer from an archive."""

    @abstractmethod
    async def checkpoint(self, container_id: ContainerId, path: str, status: ContainerStatus, addresses: Sequence[str]) -> None:
        """Write a checkpoint archive of a running container to the absolute `path`, all of it or nothing.

        It goes on running; one that `pause_container` has frozen stays so. `status` and the pod's `addresses` are written into
        the archive. Raises `Unimplemented` where a program is missing.
        """

    @abstractmethod
    async def checkpoint_origin(self, path: str) -> CheckpointOrigin:
        """Whose archive lies at `path`, an absolute path or the id of an image that `is_checkpoint`.

        Raises `NotFound`, and `DataLoss` for an invalid or incomplete archive.
        """

    @abstractmethod
    async def write_pod_checkpoint(self, folder: str, checkpoint: PodCheckpoint) -> None:
        """The archives of these containers, each NAME.tar, are complete in `folder`: write the manifest that says so."""

    @abstractmethod
    async def read_pod_checkpoint(self, folder: str) -> PodCheckpoint:
        """What the manifest in `folder` says.

        Raises `NotFound` where there is none, and `DataLoss` for one that is broken, was written by a newer version, or names
        an archive that is not as it was.
        """

    @abstractmethod
    async def restore(self, spec: ContainerSpec, path: str) -> ContainerCreated | None:
        """Like `create_container`, from an archive; the start then resumes it. Raises as `checkpoint_origin`."""


@runtime_checkable
class SupportsLeftovers(Protocol):
    """Leftovers of ended pods, shown in the verbose info of Status and in a metric; no call of CRI."""

    @abstractmethod
    def leftovers(self) -> Mapping[SandboxId, Sequence[str]]:
        """What could not be freed yet, as text, by sandbox; a sandbox without leftovers is not listed.

        Must not block. Removing such a sandbox raises `Unavailable` until everything is freed.
        """


@runtime_checkable
class SupportsClose(Protocol):
    """A backend that must end or close something with this process; no call of CRI."""

    @abstractmethod
    async def close(self) -> None:
        """End the containers that cannot run without this process, and close open files and connections. Containers of an
        engine keep running.

        Called once, after all other calls, at the end of `crishim play`. `crishim serve` does not call it: a node's containers
        outlive it.
        """


ALL: tuple[type, ...] = (
    SupportsExec,
    SupportsAttach,
    SupportsPortForward,
    SupportsSandboxWait,
    SupportsStats,
    SupportsUpdate,
    SupportsSandboxUpdate,
    SupportsLogReopen,
    SupportsPause,
    SupportsCheckpoint,
    SupportsLeftovers,
    SupportsClose,
)


def capabilities(backend: object, among: tuple[type, ...] = ALL) -> frozenset[type]:
    """The protocols that `backend` claims: its attribute `capabilities`, or else those of `among` whose verbs it has."""
    stated = getattr(backend, "capabilities", None)
    if stated is not None:
        return frozenset(stated)
    return frozenset(protocol for protocol in among if isinstance(backend, protocol))
