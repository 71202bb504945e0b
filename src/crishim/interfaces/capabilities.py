"""What a backend may offer beyond the ten verbs; each protocol is a part of CRI.

A backend claims a capability by naming the protocol among its bases, or by having the verbs. A backend that has verbs which it
cannot always serve (a wrapper, pods over a runtime) states a set instead: an attribute `capabilities`. `capabilities()` reads
either, once, at registration; nothing is advertised or called that is not in it.
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
    """Bytes that come in."""

    @abstractmethod
    async def read(self) -> bytes:
        """The next piece, of any size; empty at the end, and ever after."""


class ByteWriter(Protocol):
    """Bytes that go out."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Hand over a piece; returns when there is room for another. Raises `BrokenPipeError` when nobody will read it."""


class ByteStream(ByteReader, ByteWriter, Protocol):
    """A connection with two directions that end separately."""

    @abstractmethod
    async def write_eof(self) -> None:
        """Nothing more will be written; reading goes on."""

    @abstractmethod
    async def close(self) -> None:
        """End both directions and free the connection. May be called twice."""


@attrs.frozen(kw_only=True)
class ProcessIO:
    """The ends of a process's streams that a client holds; None for a stream that the client does not want.

    What is None is discarded (output) or empty (input). `sizes` yields a terminal's sizes, the first one at once.
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
        """Run one more process in a running container; return when it has ended and all its output was written to `io`.

        Cancelled when the time is up: every process of the exec must then be killed before the cancellation is passed on.
        A program that cannot be run raises `InvalidArgument`, or exits 126 or 127 as shells have it.
        """


@runtime_checkable
class SupportsAttach(Protocol):
    """Attach."""

    @abstractmethod
    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """Join the container's own streams from now on, beside any others; return when it has ended.

        Cancelled when the client leaves; the container goes on. A slow client is dropped, never waited for: return early.
        The end of `io.stdin` closes the container's stdin only if it asked for `stdin_once`.
        """


@runtime_checkable
class SupportsPortForward(Protocol):
    """PortForward, where the library cannot dial inside the pod's namespace itself."""

    @abstractmethod
    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        """A TCP connection to `port` on the pod's loopback. Raises `Unavailable` when nobody listens."""


@runtime_checkable
class SupportsSandboxWait(Protocol):
    """A sandbox that can die by itself: a virtual machine, a pause process."""

    @abstractmethod
    async def wait_sandbox(self, sandbox_id: SandboxId) -> Exit:
        """Return when what keeps the sandbox alive has ended; sticky, like `wait_container`."""


@runtime_checkable
class SupportsStats(Protocol):
    """The stats and metrics family."""

    @abstractmethod
    async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
        """Usage of one container, running or not. Cheap: it is called for every container each ten seconds."""

    @abstractmethod
    async def sandbox_usage(self, sandbox_id: SandboxId) -> SandboxUsage:
        """Usage of a whole pod."""


@runtime_checkable
class SupportsUpdate(Protocol):
    """UpdateContainerResources."""

    @abstractmethod
    async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
        """Make `resources` (the whole outcome, not the change) the container's limits, or raise and leave all as it was."""


@runtime_checkable
class SupportsSandboxUpdate(Protocol):
    """UpdatePodSandboxResources."""

    @abstractmethod
    async def update_sandbox(self, sandbox_id: SandboxId, overhead: Resources | None, resources: Resources | None) -> None:
        """The pod's sums have changed; its cgroup was already written by the kubelet."""


@runtime_checkable
class SupportsLogReopen(Protocol):
    """ReopenContainerLog."""

    @abstractmethod
    async def reopen_log(self, container_id: ContainerId) -> None:
        """The log file was renamed: create the file at its path again and write there. It must exist on return.

        On an error no new file is left, since the kubelet renames the old one back.
        """


@runtime_checkable
class SupportsPause(Protocol):
    """Pause and resume, for shims and for checkpoints of whole pods."""

    @abstractmethod
    async def pause_container(self, container_id: ContainerId) -> None:
        """Stop all processes of the container where they are."""

    @abstractmethod
    async def resume_container(self, container_id: ContainerId) -> None:
        """Let them go on."""


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

        Raises `NotFound`, and `DataLoss` for what is no archive or not all of one.
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
    """None of CRI's calls: verbose Status and a metric name what ended pods have left on the node."""

    @abstractmethod
    def leftovers(self) -> Mapping[SandboxId, Sequence[str]]:
        """What could not be freed yet, for people, by sandbox; those of which everything is freed are not among them.

        Does not block. Removing such a sandbox raises `Unavailable` until all is freed.
        """


@runtime_checkable
class SupportsClose(Protocol):
    """None of CRI's calls: a backend that has something to end or to close with this process."""

    @abstractmethod
    async def close(self) -> None:
        """End the containers that cannot run without this process, and close what is open; an engine's containers go on.

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
    """The protocols that `backend` claims: the set it states, else those `among` these whose verbs it has."""
    stated = getattr(backend, "capabilities", None)
    if stated is not None:
        return frozenset(stated)
    return frozenset(protocol for protocol in among if isinstance(backend, protocol))
