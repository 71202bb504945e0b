"""The protocols beside the backend: clock, ids, URLs, observer, record store, pod network, namespaces, images."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import attrs

from crishim.errors import Code
from crishim.interfaces.capabilities import ByteStream
from crishim.lifecycle.records import ContainerRecord, Record, SandboxRecord
from crishim.model.container import ContainerSpec
from crishim.model.image import AuthConfig, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.lifecycle import ContainerView, LifecyclePoint, PodView
from crishim.model.process import StreamRequest
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxConfig, SandboxSpec
from crishim.model.values import EMPTY, ContainerId, FrozenDict, ImageId, SandboxId

__all__ = [
    "Clock",
    "Finding",
    "IdSource",
    "ImageService",
    "LifecycleHost",
    "LifecyclePlugins",
    "NetnsDialer",
    "NetworkReady",
    "NoObserver",
    "Observer",
    "PodNetwork",
    "RecordStore",
    "Records",
    "Rootfs",
    "RootfsProvider",
    "SandboxNamespaces",
    "StreamUrls",
    "SupportsRootfsDiff",
]


class Clock(Protocol):
    """The source of time."""

    @abstractmethod
    def now(self) -> int:
        """The time in nanoseconds since the epoch, as clients see it."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds of a clock that never goes back, for intervals."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of `monotonic`."""


class IdSource(Protocol):
    """The source of ids: 64 hexadecimal digits, never repeated."""

    @abstractmethod
    def sandbox_id(self) -> SandboxId:
        """A new sandbox id."""

    @abstractmethod
    def container_id(self) -> ContainerId:
        """A new container id."""


class StreamUrls(Protocol):
    """Issues the URLs of the streaming server."""

    @abstractmethod
    def mint(self, request: StreamRequest) -> str:
        """A URL for this request, valid for one use within a minute. Raises `ResourceExhausted` with a thousand outstanding."""


class Observer(Protocol):
    """Receives measurements, for metrics. Names of verbs, backends and repairs come from bounded sets."""

    @abstractmethod
    def verb_ended(self, backend: str, verb: str, code: Code, seconds: float) -> None:
        """A backend's verb with a deadline has ended. Waits, execs and attachments have no usual duration and are not
        reported.
        """

    @abstractmethod
    def pull_ended(self, code: Code, seconds: float) -> None:
        """PullImage has ended."""

    @abstractmethod
    def fetched(self, size: int) -> None:
        """A pull has downloaded `size` bytes that were not in the store."""

    @abstractmethod
    def repaired(self, repair: str) -> None:
        """Recovery has begun a repair; `repair` is the name of its class."""

    @abstractmethod
    def subscriber_dropped(self) -> None:
        """A stream of events was closed because its client was too slow."""


class NoObserver(Observer):
    """Discards all measurements."""

    def verb_ended(self, backend: str, verb: str, code: Code, seconds: float) -> None:
        """See `Observer`."""

    def pull_ended(self, code: Code, seconds: float) -> None:
        """See `Observer`."""

    def fetched(self, size: int) -> None:
        """See `Observer`."""

    def repaired(self, repair: str) -> None:
        """See `Observer`."""

    def subscriber_dropped(self) -> None:
        """See `Observer`."""


@attrs.frozen(kw_only=True)
class Records:
    """All records, in any order. `unreadable` maps the ids of records that cannot be read to the reasons; the store leaves
    these records as they are.
    """

    sandboxes: tuple[SandboxRecord, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()
    unreadable: FrozenDict[str, str] = EMPTY


class RecordStore(Protocol):
    """Stores one record per id. A `put` or `delete` that has returned survives a power failure."""

    @abstractmethod
    async def load(self) -> Records:
        """All records. Called once, before the other verbs.

        Raises `DataLoss` (naming the file) for a damaged store, `FailedPrecondition` for one that a newer version wrote.
        """

    @abstractmethod
    async def put(self, record: Record) -> None:
        """Write or replace the record of one id."""

    @abstractmethod
    async def delete(self, id: str) -> None:  # noqa: A002 - the field's word for it
        """Delete a record. Unknown ids are no error."""


@attrs.frozen(kw_only=True)
class NetworkReady:
    """Whether the pod network is configured, with the reason if not: the NetworkReady condition."""

    ready: bool
    reason: str = ""
    message: str = ""


class PodNetwork(Protocol):
    """Connects network namespaces. Never called for pods on the host network."""

    @abstractmethod
    async def set_up(self, spec: SandboxSpec) -> tuple[str, ...]:
        """Connect `spec.netns` and return the pod's addresses, the primary first, at most one of each family.

        The sandbox's record is written before. After an error `tear_down` is called.
        """

    @abstractmethod
    async def tear_down(self, spec: SandboxSpec) -> None:
        """Disconnect the namespace and free the addresses. Repeatable; with an empty `spec.netns` the namespace no longer
        exists.
        """

    @abstractmethod
    async def ready(self) -> NetworkReady:
        """Whether the network is configured. Called for every Status: start no process for it."""


class SandboxNamespaces(Protocol):
    """Creates the namespaces of a pod for backends that want them ready (`NetnsSource.LIBRARY`)."""

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> str:
        """Create the namespaces and return the path of the network namespace; empty on the host network."""

    @abstractmethod
    async def connected(self, spec: SandboxSpec) -> None:
        """Called when the pod's network is set up, or needs no set-up: apply settings that concern its interfaces.

        Raises `InvalidArgument` naming the field, if there is no such interface.
        """

    @abstractmethod
    def path(self, sandbox_id: SandboxId, kind: str) -> str:
        """The path of a namespace of the pod: `net`, `ipc`, `uts` or `user`; empty where the pod uses the host's."""

    @abstractmethod
    async def remove(self, sandbox_id: SandboxId) -> None:
        """Remove the namespaces. Repeatable, also if none were created."""


class NetnsDialer(Protocol):
    """Connects to a port inside a network namespace."""

    @abstractmethod
    async def dial(self, netns: str, port: int) -> ByteStream:
        """A TCP connection to the loopback interface of the namespace at path `netns` (empty: the host's), IPv4 first, then
        IPv6.

        Raises `Unavailable`, naming both failures, when nothing listens. Not called where the backend has its own dial.
        """


class ImageService(Protocol):
    """CRI's image service. Calls may run concurrently; lists and status are answered from memory or a local index."""

    @abstractmethod
    async def list(self) -> tuple[Image, ...]:
        """All images, in any order. A removed image disappears at once."""

    @abstractmethod
    async def status(self, image: ImageSpec) -> ImageDetail | None:
        """One image by id, unique id prefix, tag or digest; None if it is not present (which is no error in CRI)."""

    @abstractmethod
    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        """Pull an image and return its `Image.id`. Concurrent pulls of one reference share the work.

        Raises `NotFound`, `PermissionDenied`, or `PullError` with one of the kubelet's reasons.
        """

    @abstractmethod
    async def remove(self, image: ImageSpec) -> None:
        """Remove the image with all its tags, whichever reference named it. Unknown images are no error. Containers keep
        running.
        """

    @abstractmethod
    async def fs_info(self) -> ImageFsInfo:
        """The usage of the store's file systems."""


@attrs.frozen(kw_only=True)
class Rootfs:
    """A container's root file system: the mounted folder, and the folder that receives what the container writes.

    `volumes` is a path, not created yet, for the folders of the image's volumes: `release` deletes it. Where it is empty they
    are in the container's bundle.
    """

    path: str
    upper: str = ""
    volumes: str = ""


class RootfsProvider(Protocol):
    """Creates root file systems from images."""

    @abstractmethod
    async def prepare(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Rootfs:
        """A writable root file system for one container. A repeated call for the same container returns the same.

        `userns` is the path of the container's user namespace, in which the files have the image's ids; empty for the node's.
        `label` is the SELinux label of all its files, empty to leave their own.
        """

    @abstractmethod
    async def view(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Path:
        """A read-only mount of another image, for a volume of the container. Raises `NotFound`."""

    @abstractmethod
    async def release(self, container_id: ContainerId) -> None:
        """Unmount and delete the root file system and all views. Unknown containers are no error."""


@runtime_checkable
class SupportsRootfsDiff(Protocol):
    """Optional, for a `RootfsProvider`: a root that begins with what another container has written."""

    @abstractmethod
    async def apply(self, container_id: ContainerId, image_id: ImageId, layer: Path) -> None:
        """Called before `prepare` of the same container: its root has `layer`, a tar file as layers of images are, on top.

        Raises `DataLoss` for a layer that is broken or leads out of the root, and `NotFound` for an image that is not here.
        """


@attrs.frozen(kw_only=True)
class Finding:
    """The result of one check of the machine.

    `what` names the thing checked, `found` its version or path. If it is not `ok`, `without` says what does not work then, and
    `remedy` is the command that installs it. A finding that is not `needed` is a warning only.
    """

    what: str
    ok: bool
    needed: bool = True
    found: str = ""
    without: str = ""
    remedy: str = ""


class LifecyclePlugins(Protocol):
    """Plugins of the node (NRI), which follow the lifecycle of pods and containers and may change it.

    Everything that raises here fails the request that called it; a plugin that hangs or has died is dropped and fails nothing.
    """

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether any plugin is connected. While none is, nothing else of this seat is called."""

    @abstractmethod
    async def notify(self, point: LifecyclePoint, pod: PodView, container: ContainerView | None = None) -> None:
        """Call the plugins at a point of a lifecycle. Raises `Unknown` if one refuses."""

    @abstractmethod
    async def adjust(self, pod: PodView, container: ContainerView, spec: ContainerSpec) -> ContainerSpec:
        """The spec of a container to be created, with the plugins' adjustments. Raises `Unknown` if a plugin refuses or two
        conflict, and `InvalidArgument` for an adjustment that cannot be applied.
        """

    @abstractmethod
    async def update(self, pod: PodView, container: ContainerView, change: Resources) -> Resources:
        """The change of a container's limits, with the plugins' own. Raises as `adjust`."""


class LifecycleHost(Protocol):
    """What a plugin may read and change, for `LifecyclePlugins`."""

    @abstractmethod
    def pods(self) -> Sequence[PodView]:
        """The pods that clients are shown."""

    @abstractmethod
    def containers(self) -> Sequence[tuple[PodView, ContainerView]]:
        """The containers that clients are shown, with their pods."""

    @abstractmethod
    async def update_container(self, container_id: ContainerId, change: Resources) -> None:
        """Change limits, without a further call of the plugins. Raises `NotFound`, and what the backend raises."""

    @abstractmethod
    async def evict_container(self, container_id: ContainerId, reason: str) -> None:
        """Stop a container with its grace period ended. Raises as StopContainer."""
