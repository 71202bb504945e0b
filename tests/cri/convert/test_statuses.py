import attrs

from crishim.cri import pb
from crishim.cri.convert.container import encode_container_status
from crishim.cri.convert.sandbox import encode_sandbox_status
from crishim.model.container import ContainerMetadata, ContainerState, ContainerStatus, Mount
from crishim.model.image import ImageSpec
from crishim.model.process import Signal
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxMetadata, PodSandboxState, PodSandboxStatus
from crishim.model.security import LinuxContainerUser, NamespaceMode, NamespaceOption
from crishim.model.values import ContainerId, SandboxId

SANDBOX = PodSandboxStatus(
    id=SandboxId("s"),
    metadata=PodSandboxMetadata("n", "ns", "u", 1),
    state=PodSandboxState.NOTREADY,
    created_at=5,
    ips=("10.0.0.2", "fd00::2", "fd00::3"),
    namespaces=NamespaceOption(pid=NamespaceMode.CONTAINER),
    labels={"a": "b"},
    annotations={"c": "d"},
    runtime_handler="kata",
)
CONTAINER = ContainerStatus(
    id=ContainerId("c"),
    metadata=ContainerMetadata("main", 2),
    state=ContainerState.EXITED,
    created_at=5,
    started_at=6,
    finished_at=7,
    exit_code=137,
    image=ImageSpec(image="busybox"),
    image_ref="busybox@sha256:1",
    reason="OOMKilled",
    message="it was \udcff",
    labels={"a": "b"},
    annotations={"c": "d"},
    mounts=(Mount(container_path="/c", host_path="/h"),),
    log_path="/var/log/c.log",
    resources=Resources(cpu_shares=2),
    image_id="sha256:2",
    user=LinuxContainerUser(1, 2, (2,)),
    stop_signal=Signal.SIGINT,
)


def test_a_sandbox_is_encoded_in_full() -> None:
    """Every part of a sandbox's status is on the wire, the first address apart from the others."""
    namespaces = pb.NamespaceOption(pid=pb.NamespaceMode.CONTAINER)
    expected = pb.PodSandboxStatus(
        id="s",
        metadata=pb.PodSandboxMetadata(name="n", namespace="ns", uid="u", attempt=1),
        state=pb.PodSandboxState.SANDBOX_NOTREADY,
        created_at=5,
        network=pb.PodSandboxNetworkStatus(ip="10.0.0.2", additional_ips=[pb.PodIP(ip="fd00::2"), pb.PodIP(ip="fd00::3")]),
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=namespaces)),
        labels={"a": "b"},
        annotations={"c": "d"},
        runtime_handler="kata",
    )
    assert expected == encode_sandbox_status(SANDBOX)


def test_no_address_is_no_network() -> None:
    """Without an address the network is left unset: an empty one makes the kubelet build the sandbox again."""
    message = encode_sandbox_status(attrs.evolve(SANDBOX, ips=()))
    assert not message.HasField("network")


def test_a_container_is_encoded_in_full() -> None:
    """Every part of a container's status is on the wire, and its message fits it."""
    expected = pb.ContainerStatus(
        id="c",
        metadata=pb.ContainerMetadata(name="main", attempt=2),
        state=pb.ContainerState.CONTAINER_EXITED,
        created_at=5,
        started_at=6,
        finished_at=7,
        exit_code=137,
        image=pb.ImageSpec(image="busybox"),
        image_ref="busybox@sha256:1",
        reason="OOMKilled",
        message="it was ?",
        labels={"a": "b"},
        annotations={"c": "d"},
        mounts=[pb.Mount(container_path="/c", host_path="/h")],
        log_path="/var/log/c.log",
        resources=pb.ContainerResources(linux=pb.LinuxContainerResources(cpu_shares=2)),
        image_id="sha256:2",
        user=pb.ContainerUser(linux=pb.LinuxContainerUser(uid=1, gid=2, supplemental_groups=[2])),
        stop_signal=pb.Signal.SIGNAL_SIGINT,
    )
    assert expected == encode_container_status(CONTAINER)


def test_an_unknown_user_is_left_unset() -> None:
    """An unknown user is absent, not root."""
    message = encode_container_status(attrs.evolve(CONTAINER, user=None))
    assert not message.HasField("user")
