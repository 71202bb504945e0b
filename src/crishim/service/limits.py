"""UpdateContainerResources: changes the limits of containers, for clients and for plugins of the node."""

import logging

import attrs

from crishim.errors import CrishimError, FailedPrecondition
from crishim.interfaces.capabilities import SupportsUpdate
from crishim.lifecycle.records import Phase
from crishim.lifecycle.states import ContainerAct, container_after
from crishim.model.container import ContainerState
from crishim.model.lifecycle import LifecyclePoint
from crishim.model.resources import Resources
from crishim.model.values import ContainerId
from crishim.service.backends import BackendHandle
from crishim.service.core import Core
from crishim.service.entries import ContainerEntry

_log = logging.getLogger(__name__)


class ContainerLimits:
    """Changes the limits of containers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def update(self, container_id: ContainerId, change: Resources) -> None:
        """Update limits for a client, as plugins change them; otherwise as `update_alone`."""
        entry = self._core.table.container(container_id)
        await self._core.tasks.run_to_end(self._update_with_plugins(entry, change), f"UpdateContainerResources {container_id}")

    async def update_alone(self, container_id: ContainerId, change: Resources) -> None:
        """Update limits; zero values leave a limit unchanged.

        Raises `NotFound`, `FailedPrecondition`, `Unimplemented`, and what the backend raises; then the old limits are restored.
        """
        entry = self._core.table.container(container_id)
        await self._core.tasks.run_to_end(self._update(entry, change), f"update of {container_id} for a plugin")

    async def _update_with_plugins(self, entry: ContainerEntry, change: Resources) -> None:
        """Update limits, without the container's lock while plugins are called: they may update other containers."""
        require_created(entry)
        container_after(entry.state, ContainerAct.UPDATE, f"container {entry.id}")
        await self._update(entry, await self._core.plugins.updated(entry, change))
        await self._core.plugins.container(LifecyclePoint.POST_UPDATE, entry)

    async def _update(self, entry: ContainerEntry, change: Resources) -> None:
        async with entry.operations.lock:
            require_created(entry)
            container_after(entry.state, ContainerAct.UPDATE, f"container {entry.id}")
            handle = self._core.handle(entry)
            backend = handle.require(SupportsUpdate)
            resources = entry.record.resources.updated(change)
            acts = entry.state is not ContainerState.EXITED
            try:
                if acts:
                    await handle.call("update_container", backend.update_container(entry.id, resources))
                await self._core.table.save_container(entry, attrs.evolve(entry.record, resources=resources))
            except CrishimError:
                if acts:
                    await self._restore(entry, handle, backend)
                raise

    async def _restore(self, entry: ContainerEntry, handle: BackendHandle, backend: SupportsUpdate) -> None:
        """Set the previous limits again, since a failed update may have applied some of the new ones."""
        try:
            await handle.call("update_container", backend.update_container(entry.id, entry.record.resources))
        except CrishimError as error:
            _log.warning("the limits of container %s could not be restored after a failed change: %s", entry.id, error)


def require_created(entry: ContainerEntry) -> None:
    """Raise `FailedPrecondition` for a container that is being removed, or was removed while the caller waited for the lock."""
    if entry.record.phase is not Phase.READY:
        raise FailedPrecondition(entry.record.phase.value, Phase.READY.value, f"container {entry.id}")
