"""Observes the pods and containers that exist, from their folders and the runtime; for the inventory after a restart."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from crishim.errors import CrishimError, DataLoss, NotFound
from crishim.interfaces.oci_runtime import OciRuntime, OciStatus, SupportsLiveness
from crishim.linux.cgroups import Cgroups, folder_of
from crishim.model.container import ContainerState, Inventory, ObservedContainer
from crishim.model.sandbox import ObservedSandbox
from crishim.model.values import ContainerId, SandboxId
from crishim.pods.bundle import read_config

_log = logging.getLogger(__name__)

_EXIT_TIMEOUT: Final = 1.0
"""Seconds for which an inventory waits for the exit of a container that the runtime reports as stopped."""

_OBSERVE_TIMEOUT: Final = 20.0
"""The timeout of one runtime state query of an inventory, in seconds: a hanging runtime delays no other container."""

STARTING: Final = "starting"
STARTED: Final = "started-at"
"""Files of a bundle: the time at which its start began, written before the start; renamed once the start has succeeded."""

REFUSED: Final = "refused"
"""A file of a bundle: the runtime's reason for refusing to create it."""

_STATES: Final = {
    OciStatus.CREATING: ContainerState.CREATED,
    OciStatus.CREATED: ContainerState.CREATED,
    OciStatus.RUNNING: ContainerState.RUNNING,
    OciStatus.PAUSED: ContainerState.RUNNING,
    OciStatus.STOPPED: ContainerState.EXITED,
}


class PodObserver:
    """Observes the bundles in `bundles` and the folders of pods in `pods`."""

    def __init__(self, runtime: OciRuntime, bundles: Path, pods: Path, cgroups: Cgroups) -> None:
        self._runtime = runtime
        self._bundles = bundles
        self._pods = pods
        self._cgroups = cgroups

    async def inventory(self) -> Inventory:
        """Each pod's folder, and each bundle with the runtime's state of it."""
        sandboxes = await asyncio.gather(*(self._observe_pod(folder) for folder in _folders(self._pods)))
        found = await asyncio.gather(*(self._observe_bundle(folder) for folder in _folders(self._bundles)))
        return Inventory(sandboxes=tuple(sandboxes), containers=tuple(found))

    async def _observe_pod(self, folder: Path) -> ObservedSandbox:
        pod, pause = SandboxId(folder.name), folder / "pause"
        ready = not (folder / "stopped").exists()
        return ObservedSandbox(id=pod, ready=ready and (not pause.exists() or await self._pause_alive(pod, pause)))

    async def _pause_alive(self, pod: SandboxId, pause: Path) -> bool:
        alive = self._runtime.alive(pod, pause) if isinstance(self._runtime, SupportsLiveness) else None
        if alive is not None:
            return alive
        try:
            return (await self._runtime.state(pod)).status is not OciStatus.STOPPED
        except NotFound:
            return False
        except CrishimError as error:  # a wait will report its end
            _log.warning("the state of the pause of sandbox %s is unknown: %s", pod, error)
            return True

    async def _observe_bundle(self, bundle: Path) -> ObservedContainer:
        """The runtime's state; if that is unavailable, the state after its last start: a wait then reports its end."""
        starting = read(bundle / STARTING)
        started_at = int(read(bundle / STARTED) or starting or 0) or None
        try:
            async with asyncio.timeout(_OBSERVE_TIMEOUT):
                return await self._observe(bundle, started_at, starting=bool(starting))
        except (CrishimError, TimeoutError) as error:
            _log.warning("the state of container %s is unknown: %s", bundle.name, error)
            state = ContainerState.RUNNING if started_at else ContainerState.CREATED
            return ObservedContainer(
                id=ContainerId(bundle.name), sandbox_id=SandboxId(read(bundle / "sandbox")), state=state, started_at=started_at
            )

    async def _observe(self, bundle: Path, started_at: int | None, *, starting: bool) -> ObservedContainer:
        container_id = ContainerId(bundle.name)
        sandbox_id = SandboxId(read(bundle / "sandbox"))
        alive = self._runtime.alive(container_id, bundle) if isinstance(self._runtime, SupportsLiveness) else None
        if (bundle / REFUSED).exists():
            state = ContainerState.CREATED
        elif alive is None or starting:  # only the runtime knows whether an interrupted start succeeded
            state = await self._state(container_id, started_at)
        elif started_at is None:
            state = ContainerState.CREATED
        else:
            state = ContainerState.RUNNING if alive else ContainerState.EXITED
        end = None
        if state is ContainerState.EXITED and not started_at:
            state = ContainerState.CREATED
        elif state is ContainerState.EXITED:
            try:
                async with asyncio.timeout(_EXIT_TIMEOUT):
                    end = await self._runtime.wait(container_id)
                await asyncio.to_thread(self.end_leftovers, bundle)
            except TimeoutError:
                state = ContainerState.RUNNING  # its exit is not recorded yet: a wait reports it
        return ObservedContainer(id=container_id, sandbox_id=sandbox_id, state=state, started_at=started_at, exit=end)

    async def _state(self, container_id: ContainerId, started_at: int | None) -> ContainerState:
        try:
            return _STATES[(await self._runtime.state(container_id)).status]
        except NotFound:
            return ContainerState.EXITED if started_at else ContainerState.CREATED

    def end_leftovers(self, bundle: Path) -> None:
        """Kill the processes of an ended container, also in a PID namespace that continues (shared, or the node's)."""
        try:
            linux = read_config(bundle).get("linux", {})
        except DataLoss:
            return
        namespaces = linux.get("namespaces", ())
        own = any(namespace["type"] == "pid" and not namespace.get("path") for namespace in namespaces)
        if not own and (path := linux.get("cgroupsPath", "")):
            self._cgroups.kill(folder_of(path))


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.exists() else []


def read(path: Path) -> str:
    """The text of a file; empty if it does not exist."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
