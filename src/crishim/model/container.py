"""Containers, with their mounts and devices; and what is seen of pods and containers together."""

import enum

import attrs

from crishim.model.image import ImageConfig, ImageSpec
from crishim.model.process import Exit, Signal
from crishim.model.resources import Resources
from crishim.model.sandbox import ObservedSandbox, PodSandboxStatus, SandboxSpec
from crishim.model.security import IDMapping, LinuxContainerSecurityContext, LinuxContainerUser, SupplementalGroupsPolicy
from crishim.model.values import EMPTY, ContainerId, FrozenDict, ImageId, SandboxId, frozen


class MountPropagation(enum.IntEnum):
    """Which way mounts made later travel. BIDIRECTIONAL also reaches the host."""

    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


@attrs.frozen(kw_only=True)
class Mount:
    """A bind of `host_path`, or a read-only view of `image`, at `container_path`.

    `recursive_read_only` needs `readonly` and PRIVATE propagation.
    """

    container_path: str
    host_path: str = ""
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: MountPropagation = MountPropagation.PRIVATE
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    recursive_read_only: bool = False
    image: ImageSpec | None = None
    image_sub_path: str = ""
    mount_options: tuple[str, ...] = ()


@attrs.frozen
class Device:
    """A device node of the host. `permissions` are cgroup letters out of `rwm`."""

    container_path: str
    host_path: str
    permissions: str = "rwm"


class ContainerState(enum.IntEnum):
    """CRI's four states of a container."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


@attrs.frozen
class ContainerMetadata:
    """What names a container within its sandbox."""

    name: str
    attempt: int = 0


@attrs.frozen
class KeyValue:
    """An environment variable. Bytes that are no UTF-8 stand as surrogate escapes (PEP 383)."""

    key: str
    value: str = ""


@attrs.frozen(kw_only=True)
class LinuxContainerConfig:
    """The Linux part of a container's configuration. Without `security_context` the backend's own defaults protect it."""

    resources: Resources = Resources()
    security_context: LinuxContainerSecurityContext | None = None


@attrs.frozen(kw_only=True)
class ContainerConfig:
    """What CreateContainer asks for. `log_path` is relative to the sandbox's log directory; empty means no log."""

    metadata: ContainerMetadata
    image: ImageSpec = ImageSpec()
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: tuple[KeyValue, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    linux: LinuxContainerConfig | None = None
    cdi_devices: tuple[str, ...] = ()
    stop_signal: Signal = Signal.RUNTIME_DEFAULT


@attrs.frozen(kw_only=True)
class UserSpec:
    """Which user to run as, before the image's passwd and group files are read.

    `user` is a number or a name, empty for root; `group` a number or name, empty for the user's own primary group (0 where
    passwd does not know the user). `supplemental_groups` come on top; MERGE also adds the groups of the image's /etc/group.
    """

    user: str = ""
    group: str = ""
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE


@attrs.frozen(kw_only=True)
class ContainerSpec:
    """What a backend receives for a container: everything resolved, nothing to derive again.

    `argv`, `env`, `cwd`, `user` and `stop_signal` are the outcome of the configuration and the image together; `log_path` is
    absolute, or empty for no log; `image_id` is the image service's id, and `image_config` what that image says of itself.
    """

    id: ContainerId
    sandbox: SandboxSpec
    metadata: ContainerMetadata
    image_id: ImageId
    image: ImageSpec = ImageSpec()
    image_config: ImageConfig = ImageConfig()
    argv: tuple[str, ...]
    env: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    cwd: str = "/"
    user: UserSpec = UserSpec()
    stop_signal: Signal = Signal.SIGTERM
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    resources: Resources = Resources()
    security: LinuxContainerSecurityContext | None = None


@attrs.frozen(kw_only=True)
class ContainerCreated:
    """What a backend may tell of a container it created: the user that the image's files gave."""

    user: LinuxContainerUser | None = None


@attrs.frozen(kw_only=True)
class ObservedContainer:
    """A container that a backend holds. `exit` goes with state EXITED, where the backend still knows it."""

    id: ContainerId
    sandbox_id: SandboxId
    state: ContainerState
    started_at: int | None = None
    exit: Exit | None = None
    ours: bool = True


@attrs.frozen(kw_only=True)
class Container:
    """A container as lists show it."""

    id: ContainerId
    pod_sandbox_id: SandboxId
    metadata: ContainerMetadata
    image: ImageSpec = ImageSpec()
    image_ref: str = ""
    state: ContainerState
    created_at: int
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    image_id: str = ""


@attrs.frozen(kw_only=True)
class ContainerStatus:
    """A container as ContainerStatus shows it. `started_at`, `finished_at` are zero for what has not happened."""

    id: ContainerId
    metadata: ContainerMetadata
    state: ContainerState
    created_at: int
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    image: ImageSpec = ImageSpec()
    image_ref: str = ""
    reason: str = ""
    message: str = ""
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    mounts: tuple[Mount, ...] = ()
    log_path: str = ""
    resources: Resources = Resources()
    image_id: str = ""
    user: LinuxContainerUser | None = None
    stop_signal: Signal = Signal.SIGTERM


@attrs.frozen(kw_only=True)
class CheckpointOrigin:
    """What a checkpoint archive says of its container; `image` is as it was named, `image_ref` with a digest."""

    name: str
    image: str
    image_ref: str = ""


@attrs.frozen(kw_only=True)
class ContainerFilter:
    """A list's filter: parts are joined by "and"; empty parts match all. State CREATED is a value, None is none."""

    id: str = ""
    state: ContainerState | None = None
    pod_sandbox_id: str = ""
    label_selector: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)


@attrs.frozen(kw_only=True)
class PodSandboxDetail:
    """The answer to PodSandboxStatus. `info` is filled for verbose requests only.

    `containers_statuses` and `timestamp` (the moment at which all of it was so) are for clients that live by events; empty and
    0 where the runtime sends none.
    """

    status: PodSandboxStatus
    info: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    containers_statuses: tuple[ContainerStatus, ...] = ()
    timestamp: int = 0


@attrs.frozen(kw_only=True)
class ContainerDetail:
    """The answer to ContainerStatus. `info` is filled for verbose requests only."""

    status: ContainerStatus
    info: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)


@attrs.frozen(kw_only=True)
class Inventory:
    """Everything a backend holds, with its state, in any order."""

    sandboxes: tuple[ObservedSandbox, ...] = ()
    containers: tuple[ObservedContainer, ...] = ()
