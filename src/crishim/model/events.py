"""Container events: what GetContainerEvents streams."""

import enum

import attrs

from crishim.model.container import ContainerStatus
from crishim.model.sandbox import PodSandboxStatus


class ContainerEventType(enum.IntEnum):
    """What happened."""

    CREATED = 0
    STARTED = 1
    STOPPED = 2
    DELETED = 3


@attrs.frozen(kw_only=True)
class ContainerEvent:
    """Something happened to a container, or to a sandbox (then `container_id` is the sandbox's id).

    It carries the pod as it was then: the kubelet ignores events without it.
    """

    container_id: str
    type: ContainerEventType
    created_at: int
    pod_sandbox_status: PodSandboxStatus
    containers_statuses: tuple[ContainerStatus, ...] = ()
