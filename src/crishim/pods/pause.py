"""The container that stands for a pod: its program only waits, and reaps what is left to it."""

from typing import Final

from crishim.model.container import ContainerMetadata, ContainerSpec
from crishim.model.sandbox import SandboxSpec
from crishim.model.values import ContainerId, ImageId

PAUSE: Final = "catatonit"


def pause_spec(spec: SandboxSpec) -> ContainerSpec:
    """The pause container of a pod, which has the id of its sandbox."""
    return ContainerSpec(
        id=ContainerId(spec.id),
        sandbox=spec,
        metadata=ContainerMetadata(PAUSE),
        image_id=ImageId(PAUSE),
        argv=(f"/{PAUSE}", "-P"),
    )
