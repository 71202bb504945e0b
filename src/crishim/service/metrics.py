"""The metrics of ListMetricDescriptors and ListPodSandboxMetrics: names, help, labels, and how usage figures become values.

Names are cAdvisor's, as clients expect them. The first labels of every metric are the pod's and the container's; a backend's
own samples bring the values of the further ones.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from crishim.model.stats import (
    ContainerUsage,
    CpuUsage,
    MemoryUsage,
    Metric,
    MetricDescriptor,
    MetricSample,
    MetricType,
    NetworkUsage,
    ProcessUsage,
    SandboxUsage,
)

BASE_LABELS: Final = ("id", "image", "namespace", "pod", "container")
_NANO: Final = 1_000_000_000
_COUNTER, _GAUGE = MetricType.COUNTER, MetricType.GAUGE

_TABLE: Final = (
    ("container_cpu_usage_seconds_total", "CPU time consumed, in seconds", (), _COUNTER),
    ("container_cpu_user_seconds_total", "CPU time consumed in user mode, in seconds", (), _COUNTER),
    ("container_cpu_system_seconds_total", "CPU time consumed in kernel mode, in seconds", (), _COUNTER),
    ("container_cpu_cfs_periods_total", "Elapsed enforcement periods", (), _COUNTER),
    ("container_cpu_cfs_throttled_periods_total", "Enforcement periods in which it was throttled", (), _COUNTER),
    ("container_cpu_cfs_throttled_seconds_total", "Time for which it was throttled, in seconds", (), _COUNTER),
    ("container_memory_usage_bytes", "Memory in use, in bytes", (), _GAUGE),
    ("container_memory_working_set_bytes", "Memory in use without inactive file cache, in bytes", (), _GAUGE),
    ("container_memory_rss", "Anonymous memory, in bytes", (), _GAUGE),
    ("container_memory_cache", "Page cache, in bytes", (), _GAUGE),
    ("container_memory_mapped_file", "Memory-mapped files, in bytes", (), _GAUGE),
    ("container_memory_kernel_usage", "Kernel memory, in bytes", (), _GAUGE),
    ("container_memory_max_usage_bytes", "The most memory ever in use, in bytes", (), _GAUGE),
    ("container_memory_swap", "Swap in use, in bytes", (), _GAUGE),
    ("container_memory_failcnt", "How often the memory limit was hit", (), _COUNTER),
    ("container_memory_failures_total", "Page faults, by kind and scope", ("failure_type", "scope"), _COUNTER),
    ("container_oom_events_total", "Processes ended by the out-of-memory killer", (), _COUNTER),
    ("container_network_receive_bytes_total", "Bytes received", ("interface",), _COUNTER),
    ("container_network_receive_packets_total", "Packets received", ("interface",), _COUNTER),
    ("container_network_receive_packets_dropped_total", "Packets dropped while receiving", ("interface",), _COUNTER),
    ("container_network_receive_errors_total", "Errors while receiving", ("interface",), _COUNTER),
    ("container_network_transmit_bytes_total", "Bytes sent", ("interface",), _COUNTER),
    ("container_network_transmit_packets_total", "Packets sent", ("interface",), _COUNTER),
    ("container_network_transmit_packets_dropped_total", "Packets dropped while sending", ("interface",), _COUNTER),
    ("container_network_transmit_errors_total", "Errors while sending", ("interface",), _COUNTER),
    ("container_processes", "Processes", (), _GAUGE),
    ("container_threads", "Threads", (), _GAUGE),
    ("container_threads_max", "The most threads allowed; 0 is no limit", (), _GAUGE),
    ("container_file_descriptors", "Open file descriptors", (), _GAUGE),
    ("container_sockets", "Open sockets", (), _GAUGE),
    ("container_fs_usage_bytes", "Bytes of the writable layer", ("device",), _GAUGE),
    ("container_fs_limit_bytes", "Size of the file system, in bytes", ("device",), _GAUGE),
    ("container_fs_inodes_total", "Inodes of the file system", ("device",), _GAUGE),
    ("container_fs_inodes_free", "Free inodes of the file system", ("device",), _GAUGE),
    ("container_fs_reads_total", "Reads", ("device",), _COUNTER),
    ("container_fs_reads_bytes_total", "Bytes read", ("device",), _COUNTER),
    ("container_fs_writes_total", "Writes", ("device",), _COUNTER),
    ("container_fs_writes_bytes_total", "Bytes written", ("device",), _COUNTER),
    ("container_blkio_device_usage_total", "Bytes moved to and from a block device", ("device", "operation"), _COUNTER),
    ("container_spec_cpu_period", "The CPU period, in microseconds", (), _GAUGE),
    ("container_spec_cpu_shares", "The CPU shares", (), _GAUGE),
    ("container_spec_memory_limit_bytes", "The memory limit, in bytes; 0 is none", (), _GAUGE),
    ("container_spec_memory_swap_limit_bytes", "The limit of memory and swap, in bytes; 0 is none", (), _GAUGE),
    ("container_start_time_seconds", "When it was started, in seconds since the epoch", (), _GAUGE),
    ("container_last_seen", "When it was last seen, in seconds since the epoch", (), _GAUGE),
)

DESCRIPTORS: Final[Mapping[str, MetricDescriptor]] = {
    name: MetricDescriptor(name=name, help=text, label_keys=(*BASE_LABELS, *labels), metric_type=kind)
    for name, text, labels, kind in _TABLE
}


def container_samples(usage: ContainerUsage) -> Iterator[MetricSample]:
    """The values that usage figures give; a backend's own samples of the same name go first."""
    own = {sample.name for sample in usage.metrics}
    yield from usage.metrics
    derived = [*_cpu(usage.cpu), *_memory(usage.memory), *_process(usage.process)]
    if usage.swap is not None:
        derived.append(("container_memory_swap", usage.swap.swap_usage_bytes, ()))
    if usage.writable_layer is not None:
        layer = usage.writable_layer
        derived.append(("container_fs_usage_bytes", layer.used_bytes, (layer.mountpoint,)))
    yield from _present(derived, own)


def sandbox_samples(usage: SandboxUsage) -> Iterator[MetricSample]:
    """The values of a pod that are not its containers': the network's."""
    own = {sample.name for sample in usage.metrics}
    yield from usage.metrics
    yield from _present(_network(usage.network), own)


def metric(sample: MetricSample, base: tuple[str, ...]) -> Metric | None:
    """A sample with its labels in the descriptor's order; None for names that no descriptor has."""
    descriptor = DESCRIPTORS.get(sample.name)
    values = (*base, *sample.labels)
    if descriptor is None or len(values) != len(descriptor.label_keys):
        return None
    return Metric(name=sample.name, metric_type=descriptor.metric_type, label_values=values, value=sample.value)


_Derived = tuple[str, int | None, tuple[str, ...]]


def _present(derived: list[_Derived], own: set[str]) -> Iterator[MetricSample]:
    for name, value, labels in derived:
        if value is not None and name not in own:
            yield MetricSample(name=name, value=value, labels=labels)


def _cpu(usage: CpuUsage | None) -> list[_Derived]:
    if usage is None or usage.usage_core_nano_seconds is None:
        return []
    return [("container_cpu_usage_seconds_total", usage.usage_core_nano_seconds // _NANO, ())]


def _memory(usage: MemoryUsage | None) -> list[_Derived]:
    if usage is None:
        return []
    return [
        ("container_memory_usage_bytes", usage.usage_bytes, ()),
        ("container_memory_working_set_bytes", usage.working_set_bytes, ()),
        ("container_memory_rss", usage.rss_bytes, ()),
        ("container_memory_failures_total", usage.page_faults, ("pgfault", "container")),
        ("container_memory_failures_total", usage.major_page_faults, ("pgmajfault", "container")),
    ]


def _process(usage: ProcessUsage | None) -> list[_Derived]:
    return [] if usage is None else [("container_processes", usage.process_count, ())]


def _network(usage: NetworkUsage | None) -> list[_Derived]:
    if usage is None:
        return []
    return [
        (name, value, (interface.name,))
        for interface in usage.interfaces
        for name, value in (
            ("container_network_receive_bytes_total", interface.rx_bytes),
            ("container_network_receive_errors_total", interface.rx_errors),
            ("container_network_transmit_bytes_total", interface.tx_bytes),
            ("container_network_transmit_errors_total", interface.tx_errors),
        )
    ]
