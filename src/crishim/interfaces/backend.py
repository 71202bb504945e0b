"""The backend protocol, which the author of a backend implements.

Only the service layer calls a backend, on one event loop:

- The library chooses every id. It starts a sandbox before it creates the sandbox's containers, and creates a container before
  it starts it. It removes containers before it stops their sandbox for good, and stops everything before it removes it.
- At most one lifecycle call (start, stop, create, kill, remove) is under way per id; waits and capabilities run beside it, and
  so do calls for other ids.
- Every call has a deadline. When it passes, or when a later stop or removal cancels a start, the call is cancelled
  (`asyncio.CancelledError`); the library then calls the removal of the same id, whatever the cancelled call has done.
- Raise `NotFound` for an object that does not exist and `Unavailable` while the engine cannot be reached: CRI's idempotence
  and the recovery are built on these two. An exception that is not a `crishim.errors` class counts as a bug, is logged with
  its traceback, and is answered with UNKNOWN.

A backend need not be idempotent, and handles no grace periods, names, filters, labels, attempts or record files.
"""

import enum
from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import attrs

from crishim.interfaces.keeper import Keeper
from crishim.interfaces.seats import Clock, RootfsProvider, SandboxNamespaces
from crishim.model.container import ContainerCreated, ContainerSpec, Inventory
from crishim.model.features import PROCESS, Feature
from crishim.model.process import Exit
from crishim.model.runtime import CgroupDriver, RuntimeHandlerFeatures
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.model.values import EMPTY, ContainerId, FrozenDict, SandboxId


class NetnsSource(enum.Enum):
    """Who creates a pod's network namespace: the library before the start, the backend during the start, or neither."""

    LIBRARY = "library"
    BACKEND = "backend"
    NONE = "none"


@attrs.frozen(kw_only=True)
class BackendInfo:
    """A backend's description of itself. `name` and `version` are non-empty; `features` are advertised in Status.

    `details` are shown in the verbose info of Status: the properties of the machine that decide what pods get, as text.
    """

    name: str
    version: str
    netns: NetnsSource = NetnsSource.NONE
    supported: frozenset[Feature] = PROCESS
    features: RuntimeHandlerFeatures = RuntimeHandlerFeatures()
    details: FrozenDict[str, str] = EMPTY


@attrs.frozen(kw_only=True)
class BackendContext:
    """The argument of `build(context)`.

    `state` is a folder of the backend's own, on a file system that survives a restart of this process; a reboot clears
    `runtime_state`. `options` come from `crishim.toml`, unchecked: the backend knows its own. `cgroup_driver` is what the
    kubelet receives from RuntimeConfig: the backend's containers must be placed in cgroups in the same way. `keeper` is the
    node's, for backends whose engine has nothing that outlives this process; None in a program without one.
    """

    handler: str = ""
    state: Path
    runtime_state: Path
    options: FrozenDict[str, Any] = FrozenDict()
    clock: Clock
    rootfs: RootfsProvider | None = None
    namespaces: SandboxNamespaces | None = None
    keeper: Keeper | None = None
    cgroup_driver: CgroupDriver = CgroupDriver.CGROUPFS


@runtime_checkable
class Backend(Protocol):
    """Runs pods and containers, by ten verbs. The module's docstring describes the order and concurrency of the calls."""

    @abstractmethod
    async def probe(self) -> BackendInfo:
        """Return name, version and supported features. Called at start and whenever an `Unavailable` engine may be back; it
        must be cheap.

        Raises `Unavailable`, with a message for the administrator, while the engine cannot be used.
        """

    @abstractmethod
    async def inventory(self) -> Inventory:
        """Every sandbox and container that exists in the backend, running or not. Called at start and after `Unavailable`;
        never on a read path, so it may be slow.
        """

    @abstractmethod
    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        """Create the sandbox in which the pod's containers will run. With `NetnsSource.BACKEND` the result names the network
        namespace that was created.
        """

    @abstractmethod
    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        """End the processes of the sandbox itself. Its containers have been killed before. It stays known until it
        is removed.
        """

    @abstractmethod
    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        """Remove a stopped sandbox and free all its resources. Its containers have been removed before."""

    @abstractmethod
    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        """Create a container so that only the start remains; no process of the container runs yet.

        A program that cannot be run is no error here: it fails the start. The result may name the user that the image's passwd
        and group files give.
        """

    @abstractmethod
    async def start_container(self, container_id: ContainerId) -> None:
        """Run the container's process, once. A program that cannot be run raises an error here and is not an exit.

        The message is shown in ContainerStatus: the container is then EXITED with code 128 and reason StartError, as in
        containerd (setStartError), so that the pod's restart policy decides. The kubelet would repeat a failed creation for as
        long as the pod exists.
        """

    @abstractmethod
    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        """Send one signal (a Linux number) to the first process; SIGKILL ends every process of the container.

        For a container that has exited, raise `NotFound` or do nothing; the library treats both alike.
        """

    @abstractmethod
    async def wait_container(self, container_id: ContainerId) -> Exit:
        """Return when the container has exited and all its output is in the log.

        Any number of callers may wait, at any time between the start and the removal, also after the exit. Cancelling a wait
        has no effect on the container. Raises `Unavailable` if the engine cannot be reached any more: the wait is then
        repeated.
        """

    @abstractmethod
    async def remove_container(self, container_id: ContainerId) -> None:
        """Remove a container that was never started or has exited, and free all its resources, but never its log file."""
