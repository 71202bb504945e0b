"""Container events."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert.statuses import encode_container_status, encode_sandbox_status
from crishim.model.events import ContainerEvent


def encode_event(event: ContainerEvent) -> pb.ContainerEventResponse:
    """GetContainerEvents: one event, with the pod as it was then."""
    return pb.ContainerEventResponse(
        container_id=event.container_id,
        container_event_type=pb.ContainerEventType.ValueType(event.type),
        created_at=event.created_at,
        pod_sandbox_status=encode_sandbox_status(event.pod_sandbox_status),
        containers_statuses=[encode_container_status(status) for status in event.containers_statuses],
    )
