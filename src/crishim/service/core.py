"""What the modules of this package share: settings, the event hub, and the dependencies."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import attrs

from crishim.errors import InvalidArgument, NotFound, PullError, PullReason, ResourceExhausted, Unavailable
from crishim.interfaces.capabilities import SupportsCheckpoint
from crishim.interfaces.seats import (
    Clock,
    IdSource,
    ImageService,
    NetnsDialer,
    NoObserver,
    Observer,
    PodNetwork,
    SandboxNamespaces,
    StreamUrls,
)
from crishim.interfaces.tracing import span
from crishim.model.container import ContainerConfig, Mount
from crishim.model.image import Image, ImageDetail, ImageSpec
from crishim.model.runtime import ContainerEvent, ContainerEventType
from crishim.model.values import ImageId
from crishim.service.backends import BackendHandle, Backends, Settings, bounded
from crishim.service.entries import ContainerEntry, SandboxEntry
from crishim.service.locks import BackgroundTasks
from crishim.service.plugins import PluginCalls
from crishim.service.table import Table

_log = logging.getLogger(__name__)


class EventHub:
    """Distributes container events to the streams of GetContainerEvents."""

    def __init__(self, clock: Clock, queue: int, observer: Observer | None = None) -> None:
        self._clock = clock
        self._size = queue
        self._queues: set[asyncio.Queue[ContainerEvent | None]] = set()
        self._observer = observer or NoObserver()

    def publish(self, sandbox: SandboxEntry, subject: str, kind: ContainerEventType) -> None:
        """Queue an event for every subscriber; `subject` is a container's id, or the sandbox's own.

        The event carries the current status of the pod. Without subscribers no status is built.
        """
        if not self._queues:
            return
        event = ContainerEvent(
            container_id=subject,
            type=kind,
            created_at=self._clock.now(),
            pod_sandbox_status=sandbox.status(),
            containers_statuses=sandbox.container_statuses(),
        )
        for queue in tuple(self._queues):
            if queue.qsize() >= self._size:
                self._queues.discard(queue)
                self._observer.subscriber_dropped()
                _log.warning("a subscriber of container events is too slow; its stream is closed")
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    async def subscribe(self) -> AsyncIterator[ContainerEvent]:
        """Every event published after the first step. Raises `ResourceExhausted` when the subscriber's queue was full."""
        queue: asyncio.Queue[ContainerEvent | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.discard(queue)
        raise ResourceExhausted("events came faster than they were read; list everything anew and subscribe again")


T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Core:
    """The dependencies of the service layer; None for an optional one that `Services` was not given."""

    settings: Settings
    clock: Clock
    ids: IdSource
    table: Table
    tasks: BackgroundTasks
    backends: Backends
    events: EventHub
    images: dict[str, ImageService]
    observer: Observer
    network: PodNetwork | None = None
    namespaces: SandboxNamespaces | None = None
    dialer: NetnsDialer | None = None
    urls: StreamUrls | None = None
    plugins: PluginCalls

    def handle(self, entry: SandboxEntry | ContainerEntry) -> BackendHandle:
        """The handle of the backend that owns a sandbox or container.

        Raises `Unavailable` if its handler is no longer configured or now names another backend: a backend must not touch what
        another one has created.
        """
        record = (entry.sandbox if isinstance(entry, ContainerEntry) else entry).record
        try:
            handle = self.backends.get(record.handler)
        except InvalidArgument as error:
            raise Unavailable(f"{entry.id} was created for a handler that is no longer configured: {error.message}") from error
        if not handle.owns(record):
            raise Unavailable(
                f"{entry.id} was created by backend {record.backend!r}, and handler {record.handler!r} is {handle.name!r} now"
            )
        return handle

    def image_service(self, handler: str) -> ImageService | None:
        """The image service of a handler, or else the default handler's."""
        return self.images.get(handler) or self.images.get("")

    async def image_step(self, what: str, work: Coroutine[Any, Any, T], *, forever: bool = False) -> T:
        """Await a verb of the image service. `forever` is for pulls, which have a progress timeout instead of a deadline."""
        deadline = None if forever else self.settings.deadlines.other
        with span(what):
            return await bounded(what, work, deadline, self.settings.deadlines.cancel_grace)

    async def network_step(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        """Await a call of the network or the namespaces, with its deadline."""
        with span(what):
            return await bounded(what, work, self.settings.deadlines.network, self.settings.deadlines.cancel_grace)

    async def image_of(self, config: ContainerConfig, handler: str) -> ImageDetail:
        """The image of a container configuration. Raises `NotFound`. Without an image service the reference is used
        as the id.
        """
        if not config.image.image:
            raise InvalidArgument("config.image.image", "is empty")
        images = self.image_service(handler)
        if images is None:
            return ImageDetail(image=Image(id=ImageId(config.image.image), size=1))
        detail = await self.image_step("image status", images.status(config.image))
        if detail is None:
            raise NotFound("image", config.image.image)
        return detail

    async def image_or_archive(
        self, config: ContainerConfig, archive: str, handle: BackendHandle, handler: str
    ) -> tuple[str, ContainerConfig, ImageDetail]:
        """The source of a container: a checkpoint archive or an empty string, the configuration, and the image.

        The image is that of the container that was dumped. Raises as `image_of`.
        """
        if not archive:
            detail = await self.image_of(config, handler)
            if not detail.is_checkpoint:
                return "", config, detail
            archive = detail.image.id
        looking = handle.require(SupportsCheckpoint).checkpoint_origin(archive)
        origin = await handle.call("checkpoint_origin", looking, self.settings.deadlines.create_container)
        image = ImageSpec(image=origin.image_ref or origin.image, user_specified_image=origin.image)
        config = attrs.evolve(config, image=image)
        return archive, config, await self.image_of(config, handler)

    async def image_mounts(self, mounts: tuple[Mount, ...], handler: str) -> tuple[Mount, ...]:
        """The mounts, with the image id filled in for each image volume. The image must be present already (CRI,
        Mount.image).
        """
        resolved = []
        for mount in mounts:
            image = mount.image
            if image is None or not image.image:
                resolved.append(mount)
                continue
            images = self.image_service(handler)
            detail = None if images is None else await self.image_step("image status", images.status(image))
            if detail is None:
                raise PullError(PullReason.IMAGE_VOLUME_MOUNT_FAILED, f"image {image.image!r} is not present")
            resolved.append(attrs.evolve(mount, image=attrs.evolve(image, image_ref=detail.image.id)))
        return tuple(resolved)
