"""Seats beside the backend: clock, ids, URLs, observer, records, network, images. What each owes stands with it."""

from abc import abstractmethod
from pathlib import Path
from typing import Protocol, runtime_checkable

import attrs

from crishim.errors import Code
from crishim.interfaces.capabilities import ByteStream
from crishim.lifecycle.records import ContainerRecord, Record, SandboxRecord
from crishim.model.image import AuthConfig, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.process import StreamRequest
from crishim.model.sandbox import PodSandboxConfig, SandboxSpec
from crishim.model.values import EMPTY, ContainerId, FrozenDict, ImageId, SandboxId


class Clock(Protocol):
    """The only source of time."""

    @abstractmethod
    def now(self) -> int:
        """Nanoseconds since the epoch; what clients see."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds that never go back; for intervals."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of `monotonic`."""


class IdSource(Protocol):
    """The only source of ids: 64 hexadecimal digits, never twice."""

    @abstractmethod
    def sandbox_id(self) -> SandboxId:
        """A new sandbox id."""

    @abstractmethod
    def container_id(self) -> ContainerId:
        """A new container id."""


class StreamUrls(Protocol):
    """Where a client goes for a stream."""

    @abstractmethod
    def mint(self, request: StreamRequest) -> str:
        """A URL for this request, good once and for a minute. Raises `ResourceExhausted` with a thousand outstanding."""


class Observer(Protocol):
    """Told of what ends. Names of verbs, backends and repairs come from bounded sets."""

    @abstractmethod
    def verb_ended(self, backend: str, verb: str, code: Code, seconds: float) -> None:
        """A backend's verb with a deadline has ended. Waits, execs and attachments, which last as they like, are not told."""

    @abstractmethod
    def pull_ended(self, code: Code, seconds: float) -> None:
        """PullImage has ended."""

    @abstractmethod
    def fetched(self, size: int) -> None:
        """A pull brought `size` bytes that were not here before."""

    @abstractmethod
    def repaired(self, repair: str) -> None:
        """Recovery has found a record and a backend that did not agree, and set out to repair it."""

    @abstractmethod
    def subscriber_dropped(self) -> None:
        """A stream of events was ended, since its client did not keep up."""


class NoObserver(Observer):
    """Nobody is interested."""

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
    """All records, in any order; `unreadable` are the ids of those that cannot be read, which are kept, with the reasons."""

    sandboxes: tuple[SandboxRecord, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()
    unreadable: FrozenDict[str, str] = EMPTY


class RecordStore(Protocol):
    """Keeps one record per id: three verbs. What `put` and `delete` have returned from survives a loss of power."""

    @abstractmethod
    async def load(self) -> Records:
        """All records. Called once, first.

        Raises `DataLoss` (naming the file) for what is broken, `FailedPrecondition` for what a newer version wrote.
        """

    @abstractmethod
    async def put(self, record: Record) -> None:
        """Write or replace the record of one id."""

    @abstractmethod
    async def delete(self, id: str) -> None:  # noqa: A002 - the field's word for it
        """Forget a record. Unknown ids are no error."""


@attrs.frozen(kw_only=True)
class NetworkReady:
    """Whether pods can be connected, and why not: the NetworkReady condition."""

    ready: bool
    reason: str = ""
    message: str = ""


class PodNetwork(Protocol):
    """Connects network namespaces: three verbs. Never called for pods on the host network."""

    @abstractmethod
    async def set_up(self, spec: SandboxSpec) -> tuple[str, ...]:
        """Connect `spec.netns` and answer the pod's addresses, the primary first, at most one of each family.

        The sandbox's record is written before. After an error `tear_down` is called.
        """

    @abstractmethod
    async def tear_down(self, spec: SandboxSpec) -> None:
        """Disconnect and free the addresses. Repeatable; an empty `spec.netns` says that the namespace is gone already."""

    @abstractmethod
    async def ready(self) -> NetworkReady:
        """Whether the network is configured. Asked with every Status: no process may be started for it."""


class SandboxNamespaces(Protocol):
    """Makes the namespaces of a pod for backends that want them ready (`NetnsSource.LIBRARY`)."""

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> str:
        """Make them and answer the path of the network namespace; empty on the host network."""

    @abstractmethod
    async def connected(self, spec: SandboxSpec) -> None:
        """Called once the pod's network is set up, or is known not to be: set what concerns its interfaces.

        Raises `InvalidArgument` naming the field, where there is no such interface.
        """

    @abstractmethod
    def path(self, sandbox_id: SandboxId, kind: str) -> str:
        """Where a namespace of the pod can be joined: `net`, `ipc`, `uts` or `user`; empty where the pod uses the host's."""

    @abstractmethod
    async def remove(self, sandbox_id: SandboxId) -> None:
        """Let go of them. Repeatable, also for what was never made."""


class NetnsDialer(Protocol):
    """Connects to a port inside a network namespace."""

    @abstractmethod
    async def dial(self, netns: str, port: int) -> ByteStream:
        """A TCP connection to the loopback of the namespace at path `netns` (empty: the host's), IPv4 first, then IPv6.

        Raises `Unavailable`, naming both failures, when nobody listens. Use the backend's own dial where it has one.
        """


class ImageService(Protocol):
    """CRI's images: five verbs. Called beside each other at any time; lists and status answer from memory or a local index."""

    @abstractmethod
    async def list(self) -> tuple[Image, ...]:
        """All images, in any order. A removal shows here at once."""

    @abstractmethod
    async def status(self, image: ImageSpec) -> ImageDetail | None:
        """One image by id, unique id prefix, tag or digest; None when it is not there (which is no error in CRI)."""

    @abstractmethod
    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        """Bring an image here; the answer is its `Image.id`. Pulls of one reference share their work.

        Raises `NotFound`, `PermissionDenied`, or `PullError` with one of the kubelet's words.
        """

    @abstractmethod
    async def remove(self, image: ImageSpec) -> None:
        """Remove the image with all its tags, whichever named it. Unknown images are no error. Containers keep running."""

    @abstractmethod
    async def fs_info(self) -> ImageFsInfo:
        """What the store uses."""


@attrs.frozen(kw_only=True)
class Rootfs:
    """A container's root: a folder that is mounted and ready, and the folder that takes what the container writes.

    `volumes` is a path, not made yet, for the folders of the image's volumes: `release` deletes it. Where it is empty they are
    in the container's bundle.
    """

    path: str
    upper: str = ""
    volumes: str = ""


class RootfsProvider(Protocol):
    """Makes root file systems out of images: three verbs."""

    @abstractmethod
    async def prepare(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Rootfs:
        """A writable root of the container's own. Repeating it for the same container gives the same root.

        `userns` is the path of the container's user namespace, empty for the node's: its ids are then the image's. `label` is
        the SELinux label of all its files, empty where they have their own.
        """

    @abstractmethod
    async def view(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Path:
        """A read-only mount of another image, for a volume of the container. Raises `NotFound`."""

    @abstractmethod
    async def release(self, container_id: ContainerId) -> None:
        """Unmount and delete the root and all views. Unknown containers are no error."""


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
    """One thing that a backend needs, or can use.

    `what` names it, `found` says what is there (a version, a path). Where it is not `ok`, `without` says what then does not
    work, and `remedy` is the command that brings it. A finding that is not `needed` is no obstacle.
    """

    what: str
    ok: bool
    needed: bool = True
    found: str = ""
    without: str = ""
    remedy: str = ""
