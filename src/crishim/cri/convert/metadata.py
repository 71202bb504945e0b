"""The names of sandboxes and containers."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert.scalars import not_empty
from crishim.model.container import ContainerMetadata
from crishim.model.sandbox import PodSandboxMetadata


def decode_sandbox(message: pb.PodSandboxMetadata, path: str) -> PodSandboxMetadata:
    """A sandbox's name. All three texts are needed: clients refuse a status that lacks one."""
    return PodSandboxMetadata(
        name=not_empty(message.name, f"{path}.name"),
        namespace=not_empty(message.namespace, f"{path}.namespace"),
        uid=not_empty(message.uid, f"{path}.uid"),
        attempt=message.attempt,
    )


def encode_sandbox(metadata: PodSandboxMetadata) -> pb.PodSandboxMetadata:
    """A sandbox's name."""
    return pb.PodSandboxMetadata(
        name=metadata.name,
        uid=metadata.uid,
        namespace=metadata.namespace,
        attempt=metadata.attempt,
    )


def decode_container(message: pb.ContainerMetadata, path: str) -> ContainerMetadata:
    """A container's name, which is needed."""
    return ContainerMetadata(name=not_empty(message.name, f"{path}.name"), attempt=message.attempt)


def encode_container(metadata: ContainerMetadata) -> pb.ContainerMetadata:
    """A container's name."""
    return pb.ContainerMetadata(name=metadata.name, attempt=metadata.attempt)
