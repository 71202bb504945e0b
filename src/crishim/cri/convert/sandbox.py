"""The messages of the sandbox verbs: requests, list items and statuses."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import common
from crishim.cri.convert.common import decode_enum, decode_map, encode_texts, sandbox_id
from crishim.cri.convert.resources import decode_resources
from crishim.cri.convert.sandbox_config import decode_config
from crishim.cri.convert.security import encode_namespaces
from crishim.cri.encoded import EncodedMessages
from crishim.errors import InvalidArgument
from crishim.model.container import ContainerStatus, PodSandboxDetail
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxState, PodSandboxStatus
from crishim.model.values import SandboxId


def decode_run(request: pb.RunPodSandboxRequest) -> tuple[PodSandboxConfig, str]:
    """RunPodSandbox: the configuration and the runtime handler (empty: the default one)."""
    if not request.HasField("config"):
        raise InvalidArgument("config", "is missing")
    return decode_config(request.config, "config"), request.runtime_handler


def encode_run(new_id: SandboxId) -> pb.RunPodSandboxResponse:
    """RunPodSandbox: the id."""
    return pb.RunPodSandboxResponse(pod_sandbox_id=new_id)


def decode_stop(request: pb.StopPodSandboxRequest) -> tuple[SandboxId]:
    """StopPodSandbox: the id."""
    return (sandbox_id(request.pod_sandbox_id),)


def decode_remove(request: pb.RemovePodSandboxRequest) -> tuple[SandboxId]:
    """RemovePodSandbox: the id."""
    return (sandbox_id(request.pod_sandbox_id),)


def decode_status(request: pb.PodSandboxStatusRequest) -> tuple[SandboxId, bool]:
    """PodSandboxStatus: the id, and whether verbose info is requested."""
    return sandbox_id(request.pod_sandbox_id), request.verbose


def encode_status(
    detail: PodSandboxDetail, sandboxes: EncodedMessages[PodSandboxStatus], containers: EncodedMessages[ContainerStatus]
) -> bytes:
    """PodSandboxStatus: the sandbox, and its containers if the runtime sends events. Both kinds of statuses are cached."""
    rest = pb.PodSandboxStatusResponse(info=encode_texts(detail.info), timestamp=detail.timestamp)
    statuses = (containers.field(3, status) for status in detail.containers_statuses)
    return b"".join((sandboxes.field(1, detail.status), *statuses, rest.SerializeToString()))


def decode_list(request: pb.ListPodSandboxRequest | pb.StreamPodSandboxesRequest) -> tuple[PodSandboxFilter]:
    """ListPodSandbox, StreamPodSandboxes: the filter; an absent one matches everything."""
    message = request.filter
    state = decode_enum(PodSandboxState, message.state.state, "filter.state.state") if message.HasField("state") else None
    return (PodSandboxFilter(id=message.id, state=state, label_selector=decode_map(message.label_selector)),)


def encode_item(item: PodSandbox) -> pb.PodSandbox:
    """One item of a list: field 1 of both ListPodSandboxResponse and StreamPodSandboxesResponse."""
    return pb.PodSandbox(
        id=item.id,
        metadata=common.encode_sandbox(item.metadata),
        state=pb.PodSandboxState.ValueType(item.state),
        created_at=item.created_at,
        labels=item.labels,
        annotations=item.annotations,
        runtime_handler=item.runtime_handler,
    )


def decode_update_resources(
    request: pb.UpdatePodSandboxResourcesRequest,
) -> tuple[SandboxId, Resources | None, Resources | None]:
    """UpdatePodSandboxResources: the id, the overhead, and the sum over the containers."""
    return (
        sandbox_id(request.pod_sandbox_id),
        decode_resources(request.overhead, "overhead") if request.HasField("overhead") else None,
        decode_resources(request.resources, "resources") if request.HasField("resources") else None,
    )


def encode_sandbox_status(status: PodSandboxStatus) -> pb.PodSandboxStatus:
    """A sandbox's status. The first address is `ip`, the others `additional_ips`; without any, the network is unset."""
    network = None
    if status.ips:
        network = pb.PodSandboxNetworkStatus(ip=status.ips[0], additional_ips=[pb.PodIP(ip=ip) for ip in status.ips[1:]])
    return pb.PodSandboxStatus(
        id=status.id,
        metadata=common.encode_sandbox(status.metadata),
        state=pb.PodSandboxState.ValueType(status.state),
        created_at=status.created_at,
        network=network,
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=encode_namespaces(status.namespaces))),
        labels=status.labels,
        annotations=status.annotations,
        runtime_handler=status.runtime_handler,
    )
