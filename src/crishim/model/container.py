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
    """The name of a container within its sandbox."""

    name: str
    attempt: int = 0


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
    """The user to run as, before the image's passwd and group files are read.

    `user` is a number or a name, empty for root; `group` a number or name, empty for the user's primary group (0 if passwd
    does not have the user). `supplemental_groups` are added; MERGE also adds the groups of the image's /etc/group.
    """

    user: str = ""
    group: str = ""
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE


@attrs.frozen(kw_only=True)
class ContainerSpec:
    """What a backend receives for a container, completely resolved.

    `argv`, `env`, `cwd`, `user` and `stop_signal` result from the configuration and the image together; `log_path` is
    absolute, or empty for no log; `image_id` is the image service's id, and `image_config` that image's own configuration.
    `oci_changes` are the changes to config.json that plugins of the node request and no other field expresses, in the form
    of `oci.changes`; a backend without `Feature.OCI_CHANGES` receives only `annotations`, which are in the spec, too.
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
    oci_changes: FrozenDict[str, Any] = attrs.field(default=EMPTY, converter=frozen)


@attrs.frozen(kw_only=True)
class ContainerCreated:
    """What a backend may report of a created container: the user that the image's passwd and group files give."""

    user: LinuxContainerUser | None = None


@attrs.frozen(kw_only=True)
class ObservedContainer:
    """A container as a backend reports it. `exit` is set in state EXITED if the backend still has the exit status."""

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
    """A container as ContainerStatus shows it. `started_at` and `finished_at` are zero before the start and the exit."""

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
    containers: tuple[ObservedContainer, ...] = ()
