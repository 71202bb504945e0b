"""Containers: what the verbs ask for and answer."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import container_config, image, metadata, sandbox_config
from crishim.cri.convert.resources import decode_resources
from crishim.cri.convert.sandbox import sandbox_id
from crishim.cri.convert.scalars import absolute, at_least, decode_enum, decode_map, encode_texts, not_empty
from crishim.cri.convert.statuses import encode_container_status
from crishim.errors import InvalidArgument
from crishim.model.container import Container, ContainerConfig, ContainerFilter, ContainerState
from crishim.model.details import ContainerDetail
from crishim.model.frozen import FrozenDict
from crishim.model.ids import ContainerId, SandboxId
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxConfig


def container_id(text: str) -> ContainerId:
    """The id in a request's `container_id`."""
    return ContainerId(not_empty(text, "container_id"))


def decode_create(request: pb.CreateContainerRequest) -> tuple[SandboxId, ContainerConfig, PodSandboxConfig | None]:
    """CreateContainer: the sandbox's id, the configuration, and once more the sandbox's configuration, where it was sent."""
    if not request.HasField("config"):
        raise InvalidArgument("config", "is missing")
    return (
        sandbox_id(request.pod_sandbox_id),
        container_config.decode_config(request.config, "config"),
        sandbox_config.decode_config(request.sandbox_config, "sandbox_config") if request.HasField("sandbox_config") else None,
    )


def encode_create(new_id: ContainerId) -> pb.CreateContainerResponse:
    """CreateContainer: the id."""
    return pb.CreateContainerResponse(container_id=new_id)


def decode_start(request: pb.StartContainerRequest) -> tuple[ContainerId]:
    """StartContainer: the id."""
    return (container_id(request.container_id),)


def decode_stop(request: pb.StopContainerRequest) -> tuple[ContainerId, int]:
    """StopContainer: the id, and the seconds of grace. Fewer than none are none: the kill comes at once, as everywhere."""
    return container_id(request.container_id), max(request.timeout, 0)


def decode_remove(request: pb.RemoveContainerRequest) -> tuple[ContainerId]:
    """RemoveContainer: the id."""
    return (container_id(request.container_id),)


def decode_status(request: pb.ContainerStatusRequest) -> tuple[ContainerId, bool]:
    """ContainerStatus: the id, and whether to be verbose."""
    return container_id(request.container_id), request.verbose


def encode_status(detail: ContainerDetail) -> pb.ContainerStatusResponse:
    """ContainerStatus: the container."""
    return pb.ContainerStatusResponse(status=encode_container_status(detail.status), info=encode_texts(detail.info))


def decode_list(request: pb.ListContainersRequest | pb.StreamContainersRequest) -> tuple[ContainerFilter]:
    """ListContainers, StreamContainers: the filter; an absent one and an empty one match all."""
    wanted = request.filter
    state = decode_enum(ContainerState, wanted.state.state, "filter.state.state") if wanted.HasField("state") else None
    found = ContainerFilter(
        id=wanted.id,
        state=state,
        pod_sandbox_id=wanted.pod_sandbox_id,
        label_selector=decode_map(wanted.label_selector),
    )
    return (found,)


def encode_item(item: Container) -> pb.Container:
    """One item of a list: field 1 of ListContainers' reply and of StreamContainers' alike."""
    return pb.Container(
        id=item.id,
        pod_sandbox_id=item.pod_sandbox_id,
        metadata=metadata.encode_container(item.metadata),
        image=image.encode_spec(item.image),
        image_ref=item.image_ref,
        state=pb.ContainerState.ValueType(item.state),
        created_at=item.created_at,
        labels=item.labels,
        annotations=item.annotations,
        image_id=item.image_id,
    )


def decode_update_resources(
    request: pb.UpdateContainerResourcesRequest,
) -> tuple[ContainerId, Resources, FrozenDict[str, str]]:
    """UpdateContainerResources: the id, the change (absent: none), and annotations that are hints for this update."""
    return (
        container_id(request.container_id),
        decode_resources(request.linux, "linux"),
        decode_map(request.annotations),
    )


def decode_reopen_log(request: pb.ReopenContainerLogRequest) -> tuple[ContainerId]:
    """ReopenContainerLog: the id."""
    return (container_id(request.container_id),)


def decode_checkpoint(request: pb.CheckpointContainerRequest) -> tuple[ContainerId, str, int]:
    """CheckpointContainer: the id, the archive's absolute path, and seconds (0: as long as it takes)."""
    return (
        container_id(request.container_id),
        absolute(request.location, "location"),
        at_least(request.timeout, 0, "timeout"),
    )
