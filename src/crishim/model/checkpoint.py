"""Checkpoints of whole pods: what RestorePod asks for, and what it makes."""

import attrs

from crishim.model.container import ContainerConfig
from crishim.model.frozen import EMPTY, FrozenDict, frozen
from crishim.model.ids import ContainerId, SandboxId
from crishim.model.sandbox import PodSandboxConfig


@attrs.frozen(kw_only=True)
class RestorePod:
    """A pod to be made from what CheckpointPod wrote below `checkpoint_path`. Unknown `options` are refused."""

    checkpoint_path: str
    config: PodSandboxConfig
    handler: str = ""
    options: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    container_configs: tuple[ContainerConfig, ...] = ()


@attrs.frozen(kw_only=True)
class RestoredPod:
    """The pod that was made, with a pair of name and new id for each of its containers. They wait to be started."""

    sandbox_id: SandboxId
    containers: tuple[tuple[str, ContainerId], ...] = ()
