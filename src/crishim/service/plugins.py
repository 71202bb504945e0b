"""Calls the plugins of the node at the points of the lifecycle of pods and containers.

While no plugin is connected, nothing here costs anything: no view is built, no task is started.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

import attrs

from crishim.errors import CrishimError
from crishim.interfaces.seats import LifecycleHost, LifecyclePlugins
from crishim.model.container import ContainerSpec
from crishim.model.features import Feature
from crishim.model.lifecycle import ContainerView, LifecyclePoint, PodView
from crishim.model.resources import Resources
from crishim.model.values import ContainerId, FrozenDict
from crishim.service.backends import Backends
from crishim.service.entries import ContainerEntry, SandboxEntry
from crishim.service.locks import BackgroundTasks
from crishim.service.table import Table

_log = logging.getLogger(__name__)


class PluginCalls:
    """The calls of the plugins. Refusals fail a request at the points before an effect, and are logged at those after it."""

    def __init__(self, plugins: LifecyclePlugins | None, tasks: BackgroundTasks, backends: Backends) -> None:
        self._plugins = plugins
        self._backends = backends
        self._tasks = tasks

    @property
    def _active(self) -> LifecyclePlugins | None:
        return self._plugins if self._plugins is not None and self._plugins.active else None

    async def pod(self, point: LifecyclePoint, entry: SandboxEntry, *, may_refuse: bool = False) -> None:
        """Notify of a pod. Raises what a plugin that refuses raises, if it may."""
        if plugins := self._active:
            await self._notify(plugins, point, pod_view(entry), None, may_refuse=may_refuse)

    async def updating_pod(self, entry: SandboxEntry, overhead: Resources | None, resources: Resources | None) -> None:
        """Notify of new sums of a pod's resources. Raises what a plugin that refuses raises."""
        if plugins := self._active:
            view = attrs.evolve(pod_view(entry), overhead=overhead, resources=resources)
            await self._notify(plugins, LifecyclePoint.UPDATE_POD, view, None, may_refuse=True)

    async def container(self, point: LifecyclePoint, entry: ContainerEntry, *, may_refuse: bool = False) -> None:
        """Notify of a container, after its stop has been reported. Raises what a plugin that refuses raises, if it may."""
        if entry.stop_report is not None:
            await entry.stop_report
        if plugins := self._active:
            await self._notify(
                plugins, point, pod_view(entry.sandbox), container_view(entry, self._backends), may_refuse=may_refuse
            )

    def stopped(self, entry: ContainerEntry) -> None:
        """Report a container's exit, in the background and once; later points of the container wait for that."""
        if plugins := self._active:
            pod, container = pod_view(entry.sandbox), container_view(entry, self._backends)
            work = self._notify(plugins, LifecyclePoint.STOP, pod, container, may_refuse=False)
            entry.stop_report = self._tasks.spawn(work, f"StopContainer {entry.id} for plugins")

    async def adjusted(self, entry: ContainerEntry, spec: ContainerSpec) -> ContainerSpec:
        """The spec of a container to be created, as the plugins adjust it. Raises as `LifecyclePlugins.adjust`."""
        entry.argv, entry.env = spec.argv, spec.env
        if (plugins := self._active) is None:
            return spec
        spec = await plugins.adjust(pod_view(entry.sandbox), container_view(entry, self._backends), spec)
        entry.argv, entry.env = spec.argv, spec.env
        return spec

    async def updated(self, entry: ContainerEntry, change: Resources) -> Resources:
        """The change of a container's limits, as the plugins change it. Raises as `LifecyclePlugins.update`."""
        if (plugins := self._active) is None:
            return change
        return await plugins.update(pod_view(entry.sandbox), container_view(entry, self._backends), change)

    async def _notify(
        self,
        plugins: LifecyclePlugins,
        point: LifecyclePoint,
        pod: PodView,
        container: ContainerView | None,
        *,
        may_refuse: bool,
    ) -> None:
        try:
            await plugins.notify(point, pod, container)
        except Exception as error:
            if may_refuse:
                raise
            unexpected = None if isinstance(error, CrishimError) else error
            _log.warning("%s of %s: %s", point, container.id if container else pod.spec.id, error, exc_info=unexpected)


class PluginHost(LifecycleHost):
    """What plugins may read and change. `update` changes limits, and `stop` is StopContainer."""

    def __init__(
        self,
        table: Table,
        backends: Backends,
        update: Callable[[ContainerId, Resources], Awaitable[None]],
        stop: Callable[[ContainerId, int], Awaitable[None]],
    ) -> None:
        self._table = table
        self._backends = backends
        self._update = update
        self._stop = stop

    def pods(self) -> Sequence[PodView]:
        """As `LifecycleHost.pods`."""
        return [pod_view(entry) for entry in self._table.sandboxes.values() if entry.state is not None]

    def containers(self) -> Sequence[tuple[PodView, ContainerView]]:
        """As `LifecycleHost.containers`."""
        shown = [entry for entry in self._table.containers.values() if entry.state is not None]
        return [(pod_view(entry.sandbox), container_view(entry, self._backends)) for entry in shown]

    async def update_container(self, container_id: ContainerId, change: Resources) -> None:
        """As `LifecycleHost.update_container`."""
        await self._update(container_id, change)

    async def evict_container(self, container_id: ContainerId, reason: str) -> None:
        """As `LifecycleHost.evict_container`."""
        _log.info("container %s is evicted by a plugin: %s", container_id, reason)
        await self._stop(container_id, 0)


def pod_view(entry: SandboxEntry) -> PodView:
    """A pod as plugins see it."""
    record = entry.record
    return PodView(spec=record.spec, overhead=record.overhead, resources=record.resources)


def container_view(entry: ContainerEntry, backends: Backends) -> ContainerView:
    """A container as plugins see it."""
    record, config, status = entry.record, entry.record.config, entry.status()
    security = config.linux.security_context if config.linux is not None else None
    return ContainerView(
        id=record.id,
        name=config.metadata.name,
        state=status.state,
        labels=config.labels,
        annotations=config.annotations,
        argv=entry.argv or (*config.command, *config.args),
        env=entry.env or FrozenDict({item.key: item.value for item in config.envs}),
        mounts=status.mounts,
        devices=config.devices,
        cdi_devices=config.cdi_devices,
        resources=record.resources,
        seccomp=security.seccomp if security is not None else None,
        privileged=security is not None and security.privileged,
        has_config_json=backends.supports(entry.sandbox.record.handler, Feature.OCI_CHANGES),
        image=status.image,
        image_ref=record.image_ref,
        image_id=record.image_id,
        created_at=record.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
    )
