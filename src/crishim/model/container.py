"""Containers with their mounts and devices, the detailed statuses, and a backend's inventory."""

import enum
from typing import Any

import attrs

from crishim.model.image import ImageConfig, ImageSpec
from crishim.model.process import Exit, Signal
from crishim.model.resources import Resources
from crishim.model.sandbox import ObservedSandbox, PodSandboxStatus, SandboxSpec
from crishim.model.security import IDMapping, LinuxContainerSecurityContext, LinuxContainerUser, SupplementalGroupsPolicy
from crishim.model.values import EMPTY, ContainerId, FrozenDict, ImageId, SandboxId, frozen

__all__ = [
    "CheckpointOrigin",
    "Container",
    "ContainerConfig",
    "ContainerCreated",
    "ContainerDetail",
    "ContainerFilter",
    "ContainerMetadata",
    "ContainerSpec",
    "ContainerState",
    "ContainerStatus",
    "Device",
    "Inventory",
    "KeyValue",
    "LinuxContainerConfig",
    "Mount",
    "MountPropagation",
    "ObservedContainer",
    "PodSandboxDetail",
    "UserSpec",
]


class MountPropagation(enum.IntEnum):
    """How mounts propagate between the host and the container. BIDIRECTIONAL also reaches the host."""

    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


@attrs.frozen(kw_only=True)
class Mount:
    """A bind of `host_path`, or a read-only view of `image`, at `container_path`.

    `recursive_read_only` needs `readonly` and PRIVATE propagation.
    """

    container_path: str
    """An absolute path in the container."""
    host_path: str = ""
    """An absolute path of the host; empty with `image`."""
    readonly: bool = False
    """Whether the mount is read-only."""
    selinux_relabel: bool = False
    """Whether the files get the container's SELinux label."""
    propagation: MountPropagation = MountPropagation.PRIVATE
    """How mounts below it propagate."""
    uid_mappings: tuple[IDMapping, ...] = ()
    """The mapping of an idmapped mount; empty for none."""
    gid_mappings: tuple[IDMapping, ...] = ()
    """The same for gids."""
    recursive_read_only: bool = False
    """Whether mounts below it are read-only, too."""
    image: ImageSpec | None = None
    """The image whose files are mounted; None for a bind of `host_path`."""
    image_sub_path: str = ""
    """A relative path in the image; empty for its root."""
    mount_options: tuple[str, ...] = ()
    """Further options of mount(8), such as `noexec`."""


@attrs.frozen
class Device:
    """A device node of the host."""

    container_path: str
    """An absolute path in the container."""
    host_path: str
    """The device node of the host."""
    permissions: str = "rwm"
    """Letters out of `rwm`: read, write, mknod."""


class ContainerState(enum.IntEnum):
    """CRI's four states of a container."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


@attrs.frozen
class ContainerMetadata:
    """The name of a container within its sandbox."""

    name: str
    """The container's name in the pod."""
    attempt: int = 0
    """How often the kubelet has replaced the container; the first has 0."""


@attrs.frozen
class KeyValue:
    """An environment variable. Bytes that are not UTF-8 are surrogate escapes (PEP 383)."""

    key: str
    value: str = ""


@attrs.frozen(kw_only=True)
class LinuxContainerConfig:
    """The Linux part of a container's configuration. Without `security_context` the backend's defaults apply."""

    resources: Resources = Resources()
    security_context: LinuxContainerSecurityContext | None = None


@attrs.frozen(kw_only=True)
class ContainerConfig:
    """The configuration in CreateContainer. `log_path` is relative to the sandbox's log directory; empty means no log."""

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
    """The user to run as, before the image's passwd and group files are read."""

    user: str = ""
    """A number or a name, empty for root."""
    group: str = ""
    """A number or a name, empty for the user's primary group (0 if passwd does not have the user)."""
    supplemental_groups: tuple[int, ...] = ()
    """Gids that are added."""
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    """MERGE also adds the groups of the image's /etc/group."""


@attrs.frozen(kw_only=True)
class ContainerSpec:
    """What a backend receives for a container, completely resolved."""

    id: ContainerId
    """64 hexadecimal digits, chosen by the library."""
    sandbox: SandboxSpec
    """The sandbox in which it runs."""
    metadata: ContainerMetadata
    """The container's name within the sandbox."""
    image_id: ImageId
    """The image service's id of the image."""
    image: ImageSpec = ImageSpec()
    """The image as the request names it."""
    image_config: ImageConfig = ImageConfig()
    """The image's own configuration."""
    argv: tuple[str, ...]
    """The program and its arguments, from the configuration and the image together; never empty."""
    env: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """The environment, from the configuration and the image together; bytes that are not UTF-8 are surrogate escapes."""
    cwd: str = "/"
    """An absolute path in the container."""
    user: UserSpec = UserSpec()
    """Who runs it, to be looked up in the image's passwd and group files."""
    stop_signal: Signal = Signal.SIGTERM
    """What StopContainer sends first, from the configuration or the image; `number` is Linux's."""
    log_path: str = ""
    """The absolute path of the CRI log file; empty for no log."""
    stdin: bool = False
    """Whether stdin is a pipe that attach may write to; else it is empty."""
    stdin_once: bool = False
    """Whether the end of the first attach's input ends stdin."""
    tty: bool = False
    """Whether it has a terminal; there is then no stderr."""
    mounts: tuple[Mount, ...] = ()
    """In the order of the request; `image.image_ref` of an image's is the id in the image service."""
    devices: tuple[Device, ...] = ()
    """Device nodes of the host."""
    cdi_devices: tuple[str, ...] = ()
    """Names of CDI devices: `vendor/class=name`."""
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Returned unchanged."""
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Returned unchanged; engines may read their own."""
    resources: Resources = Resources()
    """The limits of the container."""
    security: LinuxContainerSecurityContext | None = None
    """The security context; None for the backend's defaults."""
    oci_changes: FrozenDict[str, Any] = attrs.field(default=EMPTY, converter=frozen)
    """Changes to config.json by plugins of the node that no other field expresses, in the form of `oci.changes`. A backend
    without `Feature.OCI_CHANGES` receives only `annotations`, which are in the spec, too.
    """


@attrs.frozen(kw_only=True)
class ContainerCreated:
    """What a backend may report of a created container."""

    user: LinuxContainerUser | None = None
    """The user that the image's passwd and group files give; None if the backend does not know it."""


@attrs.frozen(kw_only=True)
class ObservedContainer:
    """A container as a backend reports it."""

    id: ContainerId
    """The id of its `ContainerSpec`."""
    sandbox_id: SandboxId
    """The id of its sandbox."""
    state: ContainerState
    """CREATED, RUNNING or EXITED; UNKNOWN if the backend cannot tell."""
    started_at: int | None = None
    """Nanoseconds since the epoch; None if it is not known, or before the start."""
    exit: Exit | None = None
    """Set in state EXITED if the backend still has the exit status."""
    ours: bool = True
    """False for one without a mark of this library, which the library never changes."""


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
    """A container as ContainerStatus shows it."""

    id: ContainerId
    """The container's id."""
    metadata: ContainerMetadata
    """The container's name within its sandbox."""
    state: ContainerState
    """One of the four states."""
    created_at: int
    """Nanoseconds since the epoch."""
    started_at: int = 0
    """Nanoseconds since the epoch; 0 before the start."""
    finished_at: int = 0
    """Nanoseconds since the epoch; 0 before the exit."""
    exit_code: int = 0
    """As `Exit.code`; 0 before the exit."""
    image: ImageSpec = ImageSpec()
    """The image as the request names it."""
    image_ref: str = ""
    """A digest reference of the image, or its id."""
    reason: str = ""
    """One word: `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`; empty before the exit."""
    message: str = ""
    """A sentence for people."""
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Those of the request."""
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Those of the request."""
    mounts: tuple[Mount, ...] = ()
    """Those of the request."""
    log_path: str = ""
    """The absolute path of the log; empty for none."""
    resources: Resources = Resources()
    """The limits in force."""
    image_id: str = ""
    """The id of the image."""
    user: LinuxContainerUser | None = None
    """The user of the first process; None if the backend does not report it."""
    stop_signal: Signal = Signal.SIGTERM
    """What StopContainer sends first."""


@attrs.frozen(kw_only=True)
class CheckpointOrigin:
    """What a checkpoint archive says of its container; `image` is as it was named, `image_ref` with a digest."""

    name: str
    image: str
    image_ref: str = ""


@attrs.frozen(kw_only=True)
class ContainerFilter:
    """A list filter: all parts must match, empty parts match everything. State CREATED is a value, None is no filter."""

    id: str = ""
    state: ContainerState | None = None
    pod_sandbox_id: str = ""
    label_selector: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)


@attrs.frozen(kw_only=True)
class PodSandboxDetail:
    """The response to PodSandboxStatus. `info` is filled for verbose requests only.

    `containers_statuses` and `timestamp` (the time at which all statuses were taken) are for clients that use container
    events; empty and 0 where the runtime sends none.
    """

    status: PodSandboxStatus
    info: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    containers_statuses: tuple[ContainerStatus, ...] = ()
    timestamp: int = 0


@attrs.frozen(kw_only=True)
class ContainerDetail:
    """The response to ContainerStatus. `info` is filled for verbose requests only."""

    status: ContainerStatus
    info: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)


@attrs.frozen(kw_only=True)
class Inventory:
    """Every sandbox and container of a backend, in any order."""

    sandboxes: tuple[ObservedSandbox, ...] = ()
    """Every sandbox, stopped ones among them."""
    containers: tuple[ObservedContainer, ...] = ()
    """Every container, exited ones among them."""
