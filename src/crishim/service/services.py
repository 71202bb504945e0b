"""`Services`: builds the parts of the service layer and exposes them. It has no verb of its own.

It touches nothing that it was not given: no file, no signal handler, no fork, no event-loop policy. Entering it loads the
records, reads the inventory of every backend, and repairs; leaving it ends its tasks and leaves containers running.
"""

from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Self

from crishim.interfaces.backend import Backend
from crishim.interfaces.seats import (
    Clock,
    IdSource,
    ImageService,
    LifecyclePlugins,
    NetnsDialer,
    NoObserver,
    Observer,
    PodNetwork,
    RecordStore,
    SandboxNamespaces,
    StreamUrls,
)
from crishim.model.sandbox import PodSandboxMetadata
from crishim.model.values import ContainerId, SandboxId
from crishim.service.backends import Backends, Settings
from crishim.service.containers import Containers
from crishim.service.core import Core, EventHub
from crishim.service.limits import ContainerLimits
from crishim.service.locks import BackgroundTasks
from crishim.service.node import Gauges, Images, Pods, Runtime, count_gauges
from crishim.service.plugins import PluginCalls, PluginHost
from crishim.service.recovery import Recovery
from crishim.service.sandboxes import Sandboxes
from crishim.service.stats import Stats
from crishim.service.streams import Streams
from crishim.service.table import Table
from crishim.service.watcher import Watcher
from crishim.system import RandomIds, SystemClock


class Services:
    """CRI's semantics over the given backends: `runtime sandboxes containers processes images stats pods events`.

    `backends` maps runtime handlers to backends; the empty handler is the default. `images` is one image service, or one per
    handler. Without a store, records exist in memory only; without images, a container's image reference is used as its id;
    without network and namespaces, none are created; without urls, Exec, Attach and PortForward are Unimplemented. `plugins`
    may reach what it needs by `plugin_host`.
    """

    def __init__(
        self,
        *,
        backends: Mapping[str, Backend],
        images: ImageService | Mapping[str, ImageService] | None = None,
        network: PodNetwork | None = None,
        namespaces: SandboxNamespaces | None = None,
        dialer: NetnsDialer | None = None,
        store: RecordStore | None = None,
        urls: StreamUrls | None = None,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        observer: Observer | None = None,
        plugins: LifecyclePlugins | None = None,
        settings: Settings | None = None,
    ) -> None:
        clock = clock or SystemClock()
        settings = settings or Settings(runtime_version="0.0.0")
        observer = observer or NoObserver()
        tasks = BackgroundTasks()
        handles: dict[str, ImageService] = dict(images) if isinstance(images, Mapping) else {"": images} if images else {}
        all_backends = Backends(backends, settings, clock, tasks, observer)
        self._core = Core(
            settings=settings,
            clock=clock,
            ids=ids or RandomIds(),
            table=Table(store),
            tasks=tasks,
            backends=all_backends,
            events=EventHub(clock, settings.event_queue, observer),
            images=handles,
            observer=observer,
            network=network,
            namespaces=namespaces,
            dialer=dialer,
            urls=urls,
            plugins=PluginCalls(plugins, tasks, all_backends),
        )
        watcher = Watcher(self._core)
        self.events = self._core.events
        self.runtime = Runtime(self._core)
        limits = ContainerLimits(self._core)
        self.containers = Containers(self._core, watcher, limits)
        self.sandboxes = Sandboxes(self._core, watcher, self.containers)
        self.streams = Streams(self._core)
        self.images = Images(self._core)
        self.stats = Stats(self._core)
        self.pods = Pods(self._core, self.sandboxes, self.containers)
        self.plugin_host = PluginHost(self._core.table, all_backends, limits.update_alone, self.containers.stop)
        self.recovery = Recovery(self._core, watcher, self.sandboxes, self.containers)
        self.clock = clock
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether the records are loaded and every reachable backend has been recovered."""
        return self._ready

    async def recovered(self) -> None:
        """Return when no repair of a recovery is under way. Calls are served before that."""
        await self.recovery.idle()

    def known_sandboxes(self) -> Collection[str]:
        """The ids of all sandboxes with a record, also an unreadable one, and of pods without a record that still exist in a
        backend.
        """
        return {*self._core.table.sandboxes, *self._core.table.set_aside, *self._core.table.unrecorded}

    def pod_of(self, container_id: ContainerId, sandbox_id: SandboxId) -> tuple[PodSandboxMetadata, str] | None:
        """The pod of a container or of a sandbox, and the container's name; None if the id is not known.

        One of the ids may be empty; both may be prefixes. Raises `InvalidArgument` for an ambiguous one.
        """
        table = self._core.table
        if container_id:
            container = table.find_container(container_id)
            if container is None:
                return None
            return container.sandbox.record.config.metadata, container.record.config.metadata.name
        sandbox = table.find_sandbox(sandbox_id)
        return None if sandbox is None else (sandbox.record.config.metadata, "")

    def gauges(self) -> Gauges:
        """The number of pods and containers by state, and the reachability of each backend."""
        return count_gauges(self._core)

    async def __aenter__(self) -> Self:
        await self._core.table.load()
        self.recovery.show_recorded()
        await self._core.backends.start(self.recovery.recover)
        self._ready = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ready = False
        await self._core.tasks.close(self._core.settings.deadlines.closing)
