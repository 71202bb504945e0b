from collections.abc import Callable

import pytest

from crishim.cri import pb
from crishim.cri.convert import stats
from crishim.model.container import ContainerMetadata
from crishim.model.image import FilesystemUsage
from crishim.model.sandbox import PodSandboxMetadata
from crishim.model.stats import (
    ContainerMetrics,
    ContainerStats,
    ContainerStatsFilter,
    ContainerUsage,
    CpuUsage,
    IoUsage,
    MemoryUsage,
    Metric,
    MetricDescriptor,
    MetricType,
    NetworkInterfaceUsage,
    NetworkUsage,
    PodSandboxMetrics,
    PodSandboxStats,
    PodSandboxStatsFilter,
    ProcessUsage,
    PsiData,
    PsiStats,
    SandboxUsage,
    SwapUsage,
)
from crishim.model.values import ContainerId, SandboxId
from tests.cri.refusals import refused

PSI = PsiStats(full=PsiData(total=1, avg10=0.5, avg60=0.25, avg300=0.125), some=PsiData(total=2))
PSI_MESSAGE = pb.PsiStats(Full=pb.PsiData(Total=1, Avg10=0.5, Avg60=0.25, Avg300=0.125), Some=pb.PsiData(Total=2))
MAIN = ContainerStats(
    id=ContainerId("c"),
    metadata=ContainerMetadata("main"),
    labels={"a": "b"},
    annotations={"c": "d"},
    usage=ContainerUsage(
        cpu=CpuUsage(timestamp=1, usage_core_nano_seconds=0, usage_nano_cores=3, psi=PSI),
        memory=MemoryUsage(
            timestamp=2,
            working_set_bytes=1,
            available_bytes=2,
            usage_bytes=3,
            rss_bytes=4,
            page_faults=5,
            major_page_faults=6,
            psi=PSI,
        ),
        swap=SwapUsage(timestamp=3, swap_available_bytes=1, swap_usage_bytes=2),
        io=IoUsage(timestamp=4, psi=PSI),
        writable_layer=FilesystemUsage(timestamp=5, mountpoint="/x", used_bytes=1, inodes_used=2),
    ),
)
EMPTY_CONTAINER = ContainerStats(id=ContainerId("c"), metadata=ContainerMetadata("main"))


def number(value: int) -> pb.UInt64Value:
    return pb.UInt64Value(value=value)


def main_message() -> pb.ContainerStats:
    return pb.ContainerStats(
        attributes=pb.ContainerAttributes(
            id="c", metadata=pb.ContainerMetadata(name="main"), labels={"a": "b"}, annotations={"c": "d"}
        ),
        cpu=pb.CpuUsage(timestamp=1, usage_core_nano_seconds=number(0), usage_nano_cores=number(3), psi=PSI_MESSAGE),
        memory=pb.MemoryUsage(
            timestamp=2,
            working_set_bytes=number(1),
            available_bytes=number(2),
            usage_bytes=number(3),
            rss_bytes=number(4),
            page_faults=number(5),
            major_page_faults=number(6),
            psi=PSI_MESSAGE,
        ),
        writable_layer=pb.FilesystemUsage(
            timestamp=5,
            fs_id=pb.FilesystemIdentifier(mountpoint="/x"),
            used_bytes=number(1),
            inodes_used=number(2),
        ),
        swap=pb.SwapUsage(timestamp=3, swap_available_bytes=number(1), swap_usage_bytes=number(2)),
        io=pb.IoUsage(timestamp=4, psi=PSI_MESSAGE),
    )


def test_a_containers_usage_is_encoded_in_full() -> None:
    """Every figure is on the wire, a measured zero too."""
    expected = pb.ContainerStatsResponse(stats=main_message())
    assert expected == stats.encode_container(MAIN)


def test_what_was_not_measured_is_left_unset() -> None:
    """A container without usage has its attributes alone."""
    attributes = pb.ContainerAttributes(id="c", metadata=pb.ContainerMetadata(name="main"))
    assert pb.ContainerStats(attributes=attributes) == stats.encode_container_item(EMPTY_CONTAINER)


def test_a_pods_usage_is_encoded_in_full() -> None:
    """A pod has the usage of its cgroup and network, and that of its containers."""
    eth0 = NetworkInterfaceUsage(name="eth0", rx_bytes=1, rx_errors=2, tx_bytes=3, tx_errors=4)
    pod = PodSandboxStats(
        id=SandboxId("s"),
        metadata=PodSandboxMetadata("n", "ns", "u"),
        labels={"a": "b"},
        annotations={"c": "d"},
        usage=SandboxUsage(
            cpu=CpuUsage(timestamp=1),
            memory=MemoryUsage(timestamp=2),
            network=NetworkUsage(timestamp=3, default_interface=eth0, interfaces=(NetworkInterfaceUsage(name="eth1"),)),
            process=ProcessUsage(timestamp=4, process_count=5),
            io=IoUsage(timestamp=5),
        ),
        containers=(MAIN,),
    )
    interface = pb.NetworkInterfaceUsage(
        name="eth0", rx_bytes=number(1), rx_errors=number(2), tx_bytes=number(3), tx_errors=number(4)
    )
    message = pb.PodSandboxStats(
        attributes=pb.PodSandboxAttributes(
            id="s",
            metadata=pb.PodSandboxMetadata(name="n", namespace="ns", uid="u"),
            labels={"a": "b"},
            annotations={"c": "d"},
        ),
        linux=pb.LinuxPodSandboxStats(
            cpu=pb.CpuUsage(timestamp=1),
            memory=pb.MemoryUsage(timestamp=2),
            network=pb.NetworkUsage(
                timestamp=3, default_interface=interface, interfaces=[pb.NetworkInterfaceUsage(name="eth1")]
            ),
            process=pb.ProcessUsage(timestamp=4, process_count=number(5)),
            containers=[main_message()],
            io=pb.IoUsage(timestamp=5),
        ),
    )
    assert pb.PodSandboxStatsResponse(stats=message) == stats.encode_sandbox(pod)
    assert message == stats.encode_sandbox_item(pod)


def test_a_pod_without_usage_has_an_empty_linux_part() -> None:
    """A pod without usage has an empty Linux part."""
    pod = PodSandboxStats(id=SandboxId("s"), metadata=PodSandboxMetadata("n", "ns", "u"))
    message = stats.encode_sandbox_item(pod)
    assert pb.LinuxPodSandboxStats() == message.linux
    assert message.HasField("linux")


def test_a_pod_whose_interface_is_gone_has_no_network() -> None:
    """Half of a network, without the default interface, ends a kubelet that asks for PodSandboxStats."""
    used = SandboxUsage(network=NetworkUsage(timestamp=1, interfaces=(NetworkInterfaceUsage(name="eth1"),)))
    pod = PodSandboxStats(id=SandboxId("s"), metadata=PodSandboxMetadata("n", "ns", "u"), usage=used)
    assert False is stats.encode_sandbox_item(pod).linux.HasField("network")


def test_stats_take_an_id() -> None:
    """ContainerStats and PodSandboxStats take an id."""
    assert stats.decode_container(pb.ContainerStatsRequest(container_id="c")) == ("c",)
    assert stats.decode_sandbox(pb.PodSandboxStatsRequest(pod_sandbox_id="s")) == ("s",)


@pytest.mark.parametrize(
    ("decode", "field"),
    [
        (lambda: stats.decode_container(pb.ContainerStatsRequest()), "container_id"),
        (lambda: stats.decode_sandbox(pb.PodSandboxStatsRequest()), "pod_sandbox_id"),
    ],
)
def test_no_id_is_refused(decode: Callable[[], object], field: str) -> None:
    """A request for stats without an id is refused."""
    with refused(field):
        decode()


def test_filters_are_read() -> None:
    """Both lists have filters, and an absent one is an empty one."""
    containers = pb.ContainerStatsFilter(id="c", pod_sandbox_id="s", label_selector={"a": "b"})
    of_containers = ContainerStatsFilter(id="c", pod_sandbox_id="s", label_selector={"a": "b"})
    assert (of_containers,) == stats.decode_containers(pb.ListContainerStatsRequest(filter=containers))
    assert (ContainerStatsFilter(),) == stats.decode_containers(pb.StreamContainerStatsRequest())
    pods = pb.PodSandboxStatsFilter(id="s", label_selector={"a": "b"})
    of_pods = PodSandboxStatsFilter(id="s", label_selector={"a": "b"})
    assert (of_pods,) == stats.decode_sandboxes(pb.ListPodSandboxStatsRequest(filter=pods))
    assert (PodSandboxStatsFilter(),) == stats.decode_sandboxes(pb.StreamPodSandboxStatsRequest())


def test_descriptors_say_what_a_metric_means() -> None:
    """ListMetricDescriptors answers names, help and the names of labels."""
    descriptor = MetricDescriptor(name="m", help="h", label_keys=("a", "b"), metric_type=MetricType.COUNTER)
    expected = pb.ListMetricDescriptorsResponse(descriptors=[pb.MetricDescriptor(name="m", help="h", label_keys=["a", "b"])])
    assert expected == stats.encode_metric_descriptors((descriptor,))


def test_metrics_have_values_and_types() -> None:
    """ListPodSandboxMetrics answers the values of pods and of their containers, a zero too."""
    zero = Metric(name="m", metric_type=MetricType.GAUGE, label_values=("x",), value=0, timestamp=9)
    pod = PodSandboxMetrics(
        pod_sandbox_id=SandboxId("s"),
        metrics=(zero,),
        container_metrics=(ContainerMetrics(container_id=ContainerId("c"), metrics=(zero,)),),
    )
    value = pb.Metric(name="m", timestamp=9, metric_type=pb.MetricType.GAUGE, label_values=["x"], value=pb.UInt64Value())
    expected = pb.PodSandboxMetrics(
        pod_sandbox_id="s",
        metrics=[value],
        container_metrics=[pb.ContainerMetrics(container_id="c", metrics=[value])],
    )
    assert expected == stats.encode_metrics_item(pod)
