"""The runtime as a whole: version, status, handlers, events, checkpoints of pods."""

import enum

import attrs

from crishim.model.container import CheckpointOrigin, ContainerConfig, ContainerStatus
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata, PodSandboxStatus
from crishim.model.values import EMPTY, ContainerId, FrozenDict, SandboxId, frozen

__all__ = [
    "CgroupDriver",
    "ContainerEvent",
    "ContainerEventType",
    "PodCheckpoint",
    "RestorePod",
    "RestoredPod",
    "RuntimeCondition",
    "RuntimeFeatures",
    "RuntimeHandler",
    "RuntimeHandlerFeatures",
    "RuntimeStatus",
    "Version",
]


class CgroupDriver(enum.IntEnum):
    """The cgroup driver. CRI's zero value is SYSTEMD."""

    SYSTEMD = 0
    CGROUPFS = 1


@attrs.frozen(kw_only=True)
class Version:
    """The response to Version. All four parts must be non-empty, and `runtime_version` semantic, or clients reject it."""

    version: str = "0.1.0"
    runtime_name: str = "crishim"
    runtime_version: str
    runtime_api_version: str = "v1"


@attrs.frozen(kw_only=True)
class RuntimeCondition:
    """`RuntimeReady` or `NetworkReady`, with the reason if false. A missing or false one makes the node NotReady."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


@attrs.frozen(kw_only=True)
class RuntimeHandlerFeatures:
    """Features of one handler; never more than its backend supports."""

    recursive_read_only_mounts: bool = False
    user_namespaces: bool = False


@attrs.frozen(kw_only=True)
class RuntimeHandler:
    """A handler as Status lists it; the default handler is also listed under the empty name."""

    name: str
    features: RuntimeHandlerFeatures = RuntimeHandlerFeatures()


@attrs.frozen(kw_only=True)
class RuntimeFeatures:
    """Features that do not depend on the handler."""

    supplemental_groups_policy: bool = False
    user_namespaces_host_network: bool = False
    mount_options: bool = False


@attrs.frozen(kw_only=True)
class RuntimeStatus:
    """The response to Status. `info` is filled for verbose requests only."""

    conditions: tuple[RuntimeCondition, ...]
    handlers: tuple[RuntimeHandler, ...] = ()
    features: RuntimeFeatures = RuntimeFeatures()
    info: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)


class ContainerEventType(enum.IntEnum):
    """The kind of a container event."""

    CREATED = 0
    STARTED = 1
    STOPPED = 2
    DELETED = 3


@attrs.frozen(kw_only=True)
class ContainerEvent:
    """An event of a container, or of a sandbox (`container_id` is then the sandbox's id).

    It carries the status of the pod at that time: the kubelet ignores events without it.
    """

    container_id: str
    """The id of the container, or of the sandbox."""
    type: ContainerEventType
    """CREATED, STARTED, STOPPED or DELETED."""
    created_at: int
    """Nanoseconds since the epoch."""
    pod_sandbox_status: PodSandboxStatus
    """The pod's status at that time."""
    containers_statuses: tuple[ContainerStatus, ...] = ()
    """The statuses of all containers of the pod at that time."""


@attrs.frozen(kw_only=True)
class PodCheckpoint:
    """What CheckpointPod has written: which pod's, and whose archives."""

    sandbox_id: SandboxId
    metadata: PodSandboxMetadata
    containers: tuple[CheckpointOrigin, ...]


@attrs.frozen(kw_only=True)
class RestorePod:
    """A pod to restore from what CheckpointPod wrote below `checkpoint_path`. Unknown `options` are refused."""

    checkpoint_path: str
    config: PodSandboxConfig
    handler: str = ""
    options: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    container_configs: tuple[ContainerConfig, ...] = ()


@attrs.frozen(kw_only=True)
class RestoredPod:
    """The restored pod, with a pair of name and new id for each of its containers, which are not started yet."""

    sandbox_id: SandboxId
    containers: tuple[tuple[str, ContainerId], ...] = ()
