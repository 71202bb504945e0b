"""What the rooms of this floor share."""

from collections.abc import Coroutine
from typing import Any, TypeVar

import attrs

from crishim.interfaces.seats import (
    Clock,
    IdSource,
    ImageService,
    NetnsDialer,
    Observer,
    PodNetwork,
    SandboxNamespaces,
    StreamUrls,
)
from crishim.service.backends import Backends, Seat, bounded
from crishim.service.events import EventHub
from crishim.service.lanes import BackgroundTasks
from crishim.service.settings import Settings
from crishim.service.table import ContainerEntry, SandboxEntry, Table

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Core:
    """The shared parts; None for what `Services` was not given."""

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

    def seat(self, entry: SandboxEntry | ContainerEntry) -> Seat:
        """The backend that holds a sandbox or container."""
        sandbox = entry.sandbox if isinstance(entry, ContainerEntry) else entry
        return self.backends.get(sandbox.record.handler)

    def image_service(self, handler: str) -> ImageService | None:
        """The image service of a handler: its own, else the default's."""
        return self.images.get(handler) or self.images.get("")

    async def image_step(self, what: str, work: Coroutine[Any, Any, T], *, forever: bool = False) -> T:
        """Await a verb of the image service; only pulls may last as long as they move."""
        deadline = None if forever else self.settings.deadlines.other
        return await bounded(what, work, deadline, self.settings.deadlines.cancel_grace)

    async def network_step(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        """Await a step of the network or of the namespaces, with its deadline."""
        return await bounded(what, work, self.settings.deadlines.network, self.settings.deadlines.cancel_grace)
