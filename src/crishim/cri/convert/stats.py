"""The messages of the stats and metrics verbs. Values that were not measured are unset."""

from collections.abc import Iterable

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import common
from crishim.cri.convert.common import decode_map, encode_uint64, sandbox_id
from crishim.cri.convert.container import container_id
from crishim.cri.convert.image import encode_filesystem
from crishim.model.stats import (
    ContainerMetrics,
    ContainerStats,
    ContainerStatsFilter,
    CpuUsage,
    IoUsage,
    MemoryUsage,
    Metric,
    MetricDescriptor,
    NetworkInterfaceUsage,
    NetworkUsage,
    PodSandboxMetrics,
    PodSandboxStats,
    PodSandboxStatsFilter,
    ProcessUsage,
    PsiData,
    PsiStats,
    SwapUsage,
)
from crishim.model.values import ContainerId, SandboxId


def decode_container(request: pb.ContainerStatsRequest) -> tuple[ContainerId]:
    """ContainerStats: the id."""
    return (container_id(request.container_id),)


def encode_container(stats: ContainerStats) -> pb.ContainerStatsResponse:
    """ContainerStats: the stats of one container."""
    return pb.ContainerStatsResponse(stats=encode_container_item(stats))


def decode_containers(request: pb.ListContainerStatsRequest | pb.StreamContainerStatsRequest) -> tuple[ContainerStatsFilter]:
    """ListContainerStats, StreamContainerStats: the filter; an absent one matches everything."""
    message = request.filter
    filter_ = ContainerStatsFilter(
        id=message.id,
        pod_sandbox_id=message.pod_sandbox_id,
        label_selector=decode_map(message.label_selector),
    )
    return (filter_,)


def encode_container_item(stats: ContainerStats) -> pb.ContainerStats:
    """A container's stats: field 1 of both ListContainerStatsResponse and StreamContainerStatsResponse."""
    usage = stats.usage
    return pb.ContainerStats(
        attributes=pb.ContainerAttributes(
            id=stats.id,
            metadata=common.encode_container(stats.metadata),
            labels=stats.labels,
            annotations=stats.annotations,
        ),
        cpu=encode_cpu(usage.cpu) if usage.cpu else None,
        memory=encode_memory(usage.memory) if usage.memory else None,
        writable_layer=encode_filesystem(usage.writable_layer) if usage.writable_layer else None,
        swap=encode_swap(usage.swap) if usage.swap else None,
        io=encode_io(usage.io) if usage.io else None,
    )


def decode_sandbox(request: pb.PodSandboxStatsRequest) -> tuple[SandboxId]:
    """PodSandboxStats: the id."""
    return (sandbox_id(request.pod_sandbox_id),)


def encode_sandbox(stats: PodSandboxStats) -> pb.PodSandboxStatsResponse:
    """PodSandboxStats: the stats of one pod."""
    return pb.PodSandboxStatsResponse(stats=encode_sandbox_item(stats))


def decode_sandboxes(
    request: pb.ListPodSandboxStatsRequest | pb.StreamPodSandboxStatsRequest,
) -> tuple[PodSandboxStatsFilter]:
    """ListPodSandboxStats, StreamPodSandboxStats: the filter; an absent one matches everything."""
    message = request.filter
    return (PodSandboxStatsFilter(id=message.id, label_selector=decode_map(message.label_selector)),)


def encode_sandbox_item(stats: PodSandboxStats) -> pb.PodSandboxStats:
    """A pod's stats: field 1 of both ListPodSandboxStatsResponse and StreamPodSandboxStatsResponse."""
    usage = stats.usage
    return pb.PodSandboxStats(
        attributes=pb.PodSandboxAttributes(
            id=stats.id,
            metadata=common.encode_sandbox(stats.metadata),
            labels=stats.labels,
            annotations=stats.annotations,
        ),
        linux=pb.LinuxPodSandboxStats(
            cpu=encode_cpu(usage.cpu) if usage.cpu else None,
            memory=encode_memory(usage.memory) if usage.memory else None,
            network=encode_network(usage.network) if usage.network else None,
            process=encode_process(usage.process) if usage.process else None,
            containers=[encode_container_item(container) for container in stats.containers],
            io=encode_io(usage.io) if usage.io else None,
        ),
    )


def encode_cpu(usage: CpuUsage) -> pb.CpuUsage:
    """CPU usage."""
    return pb.CpuUsage(
        timestamp=usage.timestamp,
        usage_core_nano_seconds=encode_uint64(usage.usage_core_nano_seconds),
        usage_nano_cores=encode_uint64(usage.usage_nano_cores),
        psi=encode_psi(usage.psi) if usage.psi else None,
    )


def encode_memory(usage: MemoryUsage) -> pb.MemoryUsage:
    """Memory usage."""
    return pb.MemoryUsage(
        timestamp=usage.timestamp,
        working_set_bytes=encode_uint64(usage.working_set_bytes),
        available_bytes=encode_uint64(usage.available_bytes),
        usage_bytes=encode_uint64(usage.usage_bytes),
        rss_bytes=encode_uint64(usage.rss_bytes),
        page_faults=encode_uint64(usage.page_faults),
        major_page_faults=encode_uint64(usage.major_page_faults),
        psi=encode_psi(usage.psi) if usage.psi else None,
    )


def encode_swap(usage: SwapUsage) -> pb.SwapUsage:
    """Swap usage."""
    return pb.SwapUsage(
        timestamp=usage.timestamp,
        swap_available_bytes=encode_uint64(usage.swap_available_bytes),
        swap_usage_bytes=encode_uint64(usage.swap_usage_bytes),
    )


def encode_io(usage: IoUsage) -> pb.IoUsage:
    """I/O pressure."""
    return pb.IoUsage(timestamp=usage.timestamp, psi=encode_psi(usage.psi) if usage.psi else None)


def encode_process(usage: ProcessUsage) -> pb.ProcessUsage:
    """The number of processes."""
    return pb.ProcessUsage(timestamp=usage.timestamp, process_count=encode_uint64(usage.process_count))


def encode_network(usage: NetworkUsage) -> pb.NetworkUsage | None:
    """Network usage of a pod. None without a default interface: kubelet 1.36 assumes that a network has one."""
    if usage.default_interface is None:
        return None
    return pb.NetworkUsage(
        timestamp=usage.timestamp,
        default_interface=encode_interface(usage.default_interface),
        interfaces=[encode_interface(interface) for interface in usage.interfaces],
    )


def encode_interface(usage: NetworkInterfaceUsage) -> pb.NetworkInterfaceUsage:
    """Counters of one interface."""
    return pb.NetworkInterfaceUsage(
        name=usage.name,
        rx_bytes=encode_uint64(usage.rx_bytes),
        rx_errors=encode_uint64(usage.rx_errors),
        tx_bytes=encode_uint64(usage.tx_bytes),
        tx_errors=encode_uint64(usage.tx_errors),
    )


def encode_psi(stats: PsiStats) -> pb.PsiStats:
    """Pressure stall information. Its field names are capitalized on the wire."""
    return pb.PsiStats(Full=encode_psi_data(stats.full), Some=encode_psi_data(stats.some))


def encode_psi_data(data: PsiData) -> pb.PsiData:
    """One line of a pressure file."""
    return pb.PsiData(Total=data.total, Avg10=data.avg10, Avg60=data.avg60, Avg300=data.avg300)


def encode_metric_descriptors(descriptors: Iterable[MetricDescriptor]) -> pb.ListMetricDescriptorsResponse:
    """ListMetricDescriptors: the possible metrics. The type is sent with each value, not here."""
    return pb.ListMetricDescriptorsResponse(
        descriptors=[
            pb.MetricDescriptor(name=descriptor.name, help=descriptor.help, label_keys=descriptor.label_keys)
            for descriptor in descriptors
        ]
    )


def encode_metrics_item(item: PodSandboxMetrics) -> pb.PodSandboxMetrics:
    """A pod's metrics: field 1 of both ListPodSandboxMetricsResponse and StreamPodSandboxMetricsResponse."""
    return pb.PodSandboxMetrics(
        pod_sandbox_id=item.pod_sandbox_id,
        metrics=[encode_metric(metric) for metric in item.metrics],
        container_metrics=[encode_container_metrics(container) for container in item.container_metrics],
    )


def encode_container_metrics(item: ContainerMetrics) -> pb.ContainerMetrics:
    """A container's metrics."""
    return pb.ContainerMetrics(
        container_id=item.container_id,
        metrics=[encode_metric(metric) for metric in item.metrics],
    )


def encode_metric(metric: Metric) -> pb.Metric:
    """One value of a metric."""
    return pb.Metric(
        name=metric.name,
        timestamp=metric.timestamp,
        metric_type=pb.MetricType.ValueType(metric.metric_type),
        label_values=metric.label_values,
        value=encode_uint64(metric.value),
    )
