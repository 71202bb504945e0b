"""CheckpointPod and RestorePod: whole pods, over a backend's checkpoints of single containers."""

import contextlib
import posixpath

from crishim.errors import InvalidArgument
from crishim.interfaces.capabilities import SupportsCheckpoint, SupportsPause
from crishim.lifecycle.states import ContainerAct, container_after
from crishim.model.container import ContainerState
from crishim.model.runtime import RestoredPod, RestorePod
from crishim.model.values import ContainerId, FrozenDict, SandboxId
from crishim.service.backends import Seat
from crishim.service.containers import Containers
from crishim.service.core import Core
from crishim.service.sandboxes import Sandboxes


def archive(folder: str, name: str) -> str:
    """Where a container's archive lies below a pod's checkpoint folder."""
    return posixpath.join(folder, f"{name}.tar")


class Pods:
    """The verbs for whole pods."""

    def __init__(self, core: Core, sandboxes: Sandboxes, containers: Containers) -> None:
        self._core = core
        self._sandboxes = sandboxes
        self._containers = containers

    async def checkpoint(
        self, sandbox_id: SandboxId, output_path: str, container_ids: tuple[ContainerId, ...], options: FrozenDict[str, str]
    ) -> None:
        """Pause the containers (all running ones if none is named), write an archive of each below `output_path`, resume them.

        Unknown options are refused (CRI, CheckpointPodRequest.options); none is known.
        """
        _refuse(options)
        sandbox = self._core.table.sandbox(sandbox_id)
        seat = self._core.seat(sandbox)
        writer, pauser = seat.require(SupportsCheckpoint), seat.require(SupportsPause)
        entries = [self._core.table.container(container_id) for container_id in set(container_ids)]
        for entry in entries:
            if entry.sandbox is not sandbox:
                raise InvalidArgument("container_ids", f"{entry.id} is not of this sandbox")
            container_after(entry.shown_state, ContainerAct.CHECKPOINT, f"container {entry.id}")
        if not entries:
            entries = [entry for entry in sandbox.containers.values() if entry.state is ContainerState.RUNNING]
        entries.sort(key=lambda entry: entry.id)  # whoever holds several turns takes them in this order
        async with contextlib.AsyncExitStack() as paused:
            for entry in entries:
                await paused.enter_async_context(entry.lane.turn)
                await seat.call("pause_container", pauser.pause_container(entry.id))
                paused.push_async_callback(self._resume, seat, pauser, entry.id)
            for entry in entries:
                path = archive(output_path, entry.record.config.metadata.name)
                await seat.call("checkpoint", writer.checkpoint(entry.id, path))

    async def restore(self, request: RestorePod) -> RestoredPod:
        """A pod like the one that was written; its containers are CREATED, and go on where they were when they are started."""
        _refuse(request.options)
        self._core.backends.get(request.handler).require(SupportsCheckpoint)
        sandbox_id = await self._sandboxes.run(request.config, request.handler)
        made = []
        try:
            for config in request.container_configs:
                path = archive(request.checkpoint_path, config.metadata.name)
                made.append((config.metadata.name, await self._containers.restore(sandbox_id, config, path)))
        except BaseException:
            await self._sandboxes.remove(sandbox_id)
            raise
        return RestoredPod(sandbox_id=sandbox_id, containers=tuple(made))

    async def _resume(self, seat: Seat, pauser: SupportsPause, container_id: ContainerId) -> None:
        await seat.call("resume_container", pauser.resume_container(container_id))


def _refuse(options: FrozenDict[str, str]) -> None:
    for name in options:
        raise InvalidArgument(f"options[{name}]", "is not known")
