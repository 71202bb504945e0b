import pytest

from crishim.cri import pb
from crishim.cri.convert.container import encode_container_status
from crishim.cri.convert.runtime import encode_event
from crishim.cri.convert.sandbox import encode_sandbox_status
from crishim.model.container import ContainerMetadata, ContainerState, ContainerStatus
from crishim.model.runtime import ContainerEvent, ContainerEventType
from crishim.model.sandbox import PodSandboxMetadata, PodSandboxState, PodSandboxStatus
from crishim.model.values import ContainerId, SandboxId


@pytest.mark.parametrize("kind", ContainerEventType)
def test_an_event_carries_the_pod(kind: ContainerEventType) -> None:
    """Each kind of event has CRI's name, and carries the pod as it was then."""
    pod = PodSandboxStatus(
        id=SandboxId("s"), metadata=PodSandboxMetadata("n", "ns", "u"), state=PodSandboxState.READY, created_at=1
    )
    main = ContainerStatus(id=ContainerId("c"), metadata=ContainerMetadata("main"), state=ContainerState.RUNNING, created_at=2)
    event = ContainerEvent(container_id="c", type=kind, created_at=3, pod_sandbox_status=pod, containers_statuses=(main,))
    expected = pb.ContainerEventResponse(
        container_id="c",
        container_event_type=pb.ContainerEventType.Value(f"CONTAINER_{kind.name}_EVENT"),
        created_at=3,
        pod_sandbox_status=encode_sandbox_status(pod),
        containers_statuses=[encode_container_status(main)],
    )
    assert expected == encode_event(event)
