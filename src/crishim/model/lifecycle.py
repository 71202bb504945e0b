"""Pods and containers as plugins of the node see them, and the points of their lifecycle at which plugins are called."""

import enum

import attrs

from crishim.model.container import ContainerState, Device, Mount
from crishim.model.image import ImageSpec
from crishim.model.resources import Resources
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import SecurityProfile
from crishim.model.values import EMPTY, ContainerId, FrozenDict, frozen

__all__ = ["ContainerView", "LifecyclePoint", "PodView"]


class LifecyclePoint(enum.StrEnum):
    """The points at which a plugin is notified, by NRI's names. Creating and updating a container are more than that."""

    RUN_POD = "RunPodSandbox"
    UPDATE_POD = "UpdatePodSandbox"
    POST_UPDATE_POD = "PostUpdatePodSandbox"
    STOP_POD = "StopPodSandbox"
    REMOVE_POD = "RemovePodSandbox"
    POST_CREATE = "PostCreateContainer"
    START = "StartContainer"
    POST_START = "PostStartContainer"
    POST_UPDATE = "PostUpdateContainer"
    STOP = "StopContainer"
    REMOVE = "RemoveContainer"


@attrs.frozen(kw_only=True)
class PodView:
    """A pod. `overhead` and `resources` are the sums that UpdatePodSandboxResources has set last, else None."""

    spec: SandboxSpec
    overhead: Resources | None = None
    resources: Resources | None = None


@attrs.frozen(kw_only=True)
class ContainerView:
    """A container. `argv` and `env` include the image's where they are known, which after a restart of the server they are
    not. `has_config_json`: its backend writes a config.json, with the default mounts. Times are nanoseconds since the epoch,
    zero before the start and the exit; `image_ref` has the image's digest, and `image_id` is its id.
    """

    id: ContainerId
    name: str
    state: ContainerState
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    argv: tuple[str, ...] = ()
    env: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    resources: Resources = Resources()
    seccomp: SecurityProfile | None = None
    privileged: bool = False
    has_config_json: bool = False
    image: ImageSpec = ImageSpec()
    image_ref: str = ""
    image_id: str = ""
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
