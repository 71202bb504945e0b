"""What is told of one sandbox or container: in answer to a status verb, and with every event."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import image, metadata
from crishim.cri.convert.mounts import encode_mount
from crishim.cri.convert.resources import encode_resources
from crishim.cri.convert.scalars import encode_signal, encode_text
from crishim.cri.convert.security import encode_namespaces, encode_user
from crishim.model.container import ContainerStatus
from crishim.model.sandbox import PodSandboxStatus


def encode_sandbox_status(status: PodSandboxStatus) -> pb.PodSandboxStatus:
    """A sandbox. The first address stands apart; without any, the network is left unset."""
    network = None
    if status.ips:
        network = pb.PodSandboxNetworkStatus(ip=status.ips[0], additional_ips=[pb.PodIP(ip=ip) for ip in status.ips[1:]])
    return pb.PodSandboxStatus(
        id=status.id,
        metadata=metadata.encode_sandbox(status.metadata),
        state=pb.PodSandboxState.ValueType(status.state),
        created_at=status.created_at,
        network=network,
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=encode_namespaces(status.namespaces))),
        labels=status.labels,
        annotations=status.annotations,
        runtime_handler=status.runtime_handler,
    )


def encode_container_status(status: ContainerStatus) -> pb.ContainerStatus:
    """A container."""
    return pb.ContainerStatus(
        id=status.id,
        metadata=metadata.encode_container(status.metadata),
        state=pb.ContainerState.ValueType(status.state),
        created_at=status.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        image=image.encode_spec(status.image),
        image_ref=status.image_ref,
        reason=encode_text(status.reason),
        message=encode_text(status.message),
        labels=status.labels,
        annotations=status.annotations,
        mounts=[encode_mount(mount) for mount in status.mounts],
        log_path=status.log_path,
        resources=pb.ContainerResources(linux=encode_resources(status.resources)),
        image_id=status.image_id,
        user=pb.ContainerUser(linux=encode_user(status.user)) if status.user else None,
        stop_signal=encode_signal(status.stop_signal),
    )
