"""The backend: what an author writes.

Who calls: only the service layer, on one event loop. How often, and what may run beside:

- The library chooses every id. A sandbox is started before its containers are created, a container created before it is
  started; containers are removed before their sandbox is stopped for good, and what is removed was stopped before.
- At most one lifecycle call (start, stop, create, kill, remove) is under way per id; waits and capabilities run beside it,
  and calls for different ids run beside each other.
- Every call has a deadline. When it passes, or when a later stop or removal overtakes a start, the call is cancelled
  (`asyncio.CancelledError`); afterwards the library calls the removal of the same id, whatever was already done.
- Raise `NotFound` for what is not there and `Unavailable` while your engine is away; of that honesty the library makes CRI's
  idempotence and its recovery. Anything that is not a `crishim.errors` class counts as a bug, is logged with its traceback,
  and answered with UNKNOWN.

No backend needs to be idempotent, or to know grace periods, names, filters, labels, attempts or record files.
"""

import enum
from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import attrs

from crishim.interfaces.seats import Clock, RootfsProvider, SandboxNamespaces
from crishim.model.container import ContainerCreated, ContainerSpec, Inventory
from crishim.model.features import PROCESS, Feature
from crishim.model.process import Exit
from crishim.model.runtime import CgroupDriver, RuntimeHandlerFeatures
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.model.values import EMPTY, ContainerId, FrozenDict, SandboxId


class NetnsSource(enum.Enum):
    """Who makes a pod's network namespace: the library before the start, the backend while it starts, or nobody."""

    LIBRARY = "library"
    BACKEND = "backend"
    NONE = "none"


@attrs.frozen(kw_only=True)
class BackendInfo:
    """What a backend says of itself. `name` and `version` are non-empty; `features` are advertised in Status.

    `details` are told to people, in Status's verbose info: what of the machine decides what pods get, in words.
    """

    name: str
    version: str
    netns: NetnsSource = NetnsSource.NONE
    supported: frozenset[Feature] = PROCESS
    features: RuntimeHandlerFeatures = RuntimeHandlerFeatures()
    details: FrozenDict[str, str] = EMPTY


@attrs.frozen(kw_only=True)
class BackendContext:
    """What `build(context)` receives. `state` is a folder of the backend's own, on a file system that survives a restart of
    ours; `runtime_state` one that a reboot clears. `options` come from `crishim.toml`, unchecked: the backend knows its own.
    `cgroup_driver` is what the kubelet is told: the backend's containers must get their cgroups in the same way.
    """

    handler: str = ""
    state: Path
    runtime_state: Path
    options: FrozenDict[str, Any] = FrozenDict()
    clock: Clock
    rootfs: RootfsProvider | None = None
    namespaces: SandboxNamespaces | None = None
    cgroup_driver: CgroupDriver = CgroupDriver.CGROUPFS


@runtime_checkable
class Backend(Protocol):
    """Runs pods and containers: ten verbs. The module's head says who calls, when, and what may run beside."""

    @abstractmethod
    async def probe(self) -> BackendInfo:
        """Name, version and what is supported. Called at start and whenever an `Unavailable` engine may be back; cheap.

        Raises `Unavailable`, with a message for people, while the engine cannot be used.
        """

    @abstractmethod
    async def inventory(self) -> Inventory:
        """Everything held, running or not. Asked at start and after `Unavailable`; never on a read path, so it may be slow."""

    @abstractmethod
    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        """Make the pod's surroundings. With `NetnsSource.BACKEND` the answer names the namespace that was made."""

    @abstractmethod
    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        """End what keeps the sandbox alive. Its containers have been killed before. It stays known until removed."""

    @abstractmethod
    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        """Forget a stopped sandbox and free all it held. Its containers have been removed before."""

    @abstractmethod
    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        """Make everything ready so that only the start is left; nothing of the container runs yet.

        A program that cannot be run is no error here: it fails the start. The answer may tell the user that the image's files
        gave.
        """

    @abstractmethod
    async def start_container(self, container_id: ContainerId) -> None:
        """Run the container's process, once. A program that cannot be run is an error here, not an exit.

        The message is shown to people: the container is EXITED then, with code 128 and reason StartError, as in containerd
        (setStartError), so that a pod's restart policy decides. A failed creation is tried again for as long as the pod is.
        """

    @abstractmethod
    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        """Send one signal (a Linux number) to the first process; SIGKILL ends all of the container.

        For the already dead, raise `NotFound` or do nothing; the library means the same by both.
        """

    @abstractmethod
    async def wait_container(self, container_id: ContainerId) -> Exit:
        """Return when the container has ended, all output of it having reached the log.

        Sticky: any number of waiters, at any time after the start, also after the exit, until the removal. May be cancelled at
        any time without effect on the container. Raises `Unavailable` if the engine goes away: the wait is tried again.
        """

    @abstractmethod
    async def remove_container(self, container_id: ContainerId) -> None:
        """Forget a container that was never started or has ended, and free all it held; never its log file."""
