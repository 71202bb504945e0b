"""What there is of pods and containers, told by their folders and the runtime: for an inventory, after a restart of ours."""

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
"""Seconds for which an inventory waits for the exit of what the runtime calls stopped."""

_OBSERVE_TIMEOUT: Final = 20.0
"""Seconds for which an inventory waits for the runtime's word on one container: one that hangs keeps no others back."""

STARTING: Final = "starting"
STARTED: Final = "started-at"
"""Files of a bundle: when its start was asked for; renamed when the runtime has said that it took place."""

REFUSED: Final = "refused"
"""A file of a bundle with the words in which the runtime has refused to create it."""

_STATES: Final = {
    OciStatus.CREATING: ContainerState.CREATED,
    OciStatus.CREATED: ContainerState.CREATED,
    OciStatus.RUNNING: ContainerState.RUNNING,
    OciStatus.PAUSED: ContainerState.RUNNING,
    OciStatus.STOPPED: ContainerState.EXITED,
}


class PodObserver:
    """Looks at the bundles in `bundles`, and the folders of pods in `pods`."""

    def __init__(self, runtime: OciRuntime, bundles: Path, pods: Path, cgroups: Cgroups) -> None:
        self._runtime = runtime
        self._bundles = bundles
        self._pods = pods
        self._cgroups = cgroups

    async def inventory(self) -> Inventory:
        """Every pod's folder, and every bundle with what the runtime says of it."""
        sandboxes = await asyncio.gather(*(self._observe_pod(folder) for folder in _folders(self._pods)))
        found = await asyncio.gather(*(self._observe_bundle(folder) for folder in _folders(self._bundles)))
        return Inventory(sandboxes=tuple(sandboxes), containers=tuple(found))

    async def _observe_pod(self, folder: Path) -> ObservedSandbox:
        pod, pause = SandboxId(folder.name), folder / "pause"
        ready = not (folder / "stopped").exists()
        return ObservedSandbox(id=pod, ready=ready and (not pause.exists() or await self._pause_lives(pod, pause)))

    async def _pause_lives(self, pod: SandboxId, pause: Path) -> bool:
        alive = self._runtime.alive(pod, pause) if isinstance(self._runtime, SupportsLiveness) else None
        if alive is not None:
            return alive
        try:
            return (await self._runtime.state(pod)).status is not OciStatus.STOPPED
        except NotFound:
            return False
        except CrishimError as error:  # whoever waits for it will see its end
            _log.warning("whether the pause of sandbox %s lives is not known: %s", pod, error)
            return True

    async def _observe_bundle(self, bundle: Path) -> ObservedContainer:
        """As the runtime says; where it cannot say, what its start would have led to: whoever waits will see its end."""
        starting = read(bundle / STARTING)
        started_at = int(read(bundle / STARTED) or starting or 0) or None
        try:
            async with asyncio.timeout(_OBSERVE_TIMEOUT):
                return await self._observe(bundle, started_at, starting=bool(starting))
        except (CrishimError, TimeoutError) as error:
            _log.warning("the state of container %s is not known: %s", bundle.name, error)
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
        elif alive is None or starting:  # of a start that was broken off only the runtime knows whether it took place
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
                state = ContainerState.RUNNING  # its end is not complete yet: whoever waits will be told
        return ObservedContainer(id=container_id, sandbox_id=sandbox_id, state=state, started_at=started_at, exit=end)

    async def _state(self, container_id: ContainerId, started_at: int | None) -> ContainerState:
        try:
            return _STATES[(await self._runtime.state(container_id)).status]
        except NotFound:
            return ContainerState.EXITED if started_at else ContainerState.CREATED

    def end_leftovers(self, bundle: Path) -> None:
        """What a container has started ends with it, also where its PID namespace goes on, as a shared one or the node's."""
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
    """The text of a file; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
