"""Usage of containers and pods. None means "not measured", which is not zero; every group has the time at which it was read.

A backend leaves `usage_nano_cores` unset: the library derives it from two samples.
"""

import enum

import attrs

from crishim.model.container import ContainerMetadata
from crishim.model.image import FilesystemUsage
from crishim.model.sandbox import PodSandboxMetadata
from crishim.model.values import EMPTY, ContainerId, FrozenDict, SandboxId, frozen

__all__ = [
    "CgroupUsage",
    "ContainerMetrics",
    "ContainerStats",
    "ContainerStatsFilter",
    "ContainerUsage",
    "CpuUsage",
    "DeviceIo",
    "IoUsage",
    "MemoryUsage",
    "Metric",
    "MetricDescriptor",
    "MetricSample",
    "MetricType",
    "NetworkInterfaceUsage",
    "NetworkUsage",
    "PodSandboxMetrics",
    "PodSandboxStats",
    "PodSandboxStatsFilter",
    "ProcessUsage",
    "PsiData",
    "PsiStats",
    "SandboxUsage",
    "SwapUsage",
]


@attrs.frozen(kw_only=True)
class PsiData:
    """One line of a pressure file: total stall time in nanoseconds, and averages in percent."""

    total: int = 0
    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0


@attrs.frozen(kw_only=True)
class PsiStats:
    """The pressure stall information of a cgroup (v2 only)."""

    full: PsiData = PsiData()
    some: PsiData = PsiData()


@attrs.frozen(kw_only=True)
class CpuUsage:
    """CPU time since the start in core nanoseconds, and the current rate in nano cores."""

    timestamp: int
    usage_core_nano_seconds: int | None = None
    usage_nano_cores: int | None = None
    psi: PsiStats | None = None


@attrs.frozen(kw_only=True)
class MemoryUsage:
    """Memory in bytes. The working set is usage less the inactive file cache; available is the limit less the working set."""

    timestamp: int
    working_set_bytes: int | None = None
    available_bytes: int | None = None
    usage_bytes: int | None = None
    rss_bytes: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    psi: PsiStats | None = None


@attrs.frozen(kw_only=True)
class SwapUsage:
    """Swap in bytes."""

    timestamp: int
    swap_available_bytes: int | None = None
    swap_usage_bytes: int | None = None


@attrs.frozen(kw_only=True)
class IoUsage:
    """Block I/O pressure."""

    timestamp: int
    psi: PsiStats | None = None


@attrs.frozen(kw_only=True)
class ProcessUsage:
    """The number of processes."""

    timestamp: int
    process_count: int | None = None


@attrs.frozen(kw_only=True)
class NetworkInterfaceUsage:
    """Counters of one interface."""

    name: str
    rx_bytes: int | None = None
    rx_errors: int | None = None
    tx_bytes: int | None = None
    tx_errors: int | None = None


@attrs.frozen(kw_only=True)
class NetworkUsage:
    """Counters of a pod's network namespace; the default interface is eth0, else the first."""

    timestamp: int
    default_interface: NetworkInterfaceUsage | None = None
    interfaces: tuple[NetworkInterfaceUsage, ...] = ()


@attrs.frozen(kw_only=True)
class MetricSample:
    """One value of a metric that `ListMetricDescriptors` names. `labels` follow the pod's and container's own."""

    name: str
    value: int
    labels: tuple[str, ...] = ()


@attrs.frozen
class DeviceIo:
    """The I/O counters of a block device, `major:minor`."""

    device: str
    reads: int = 0
    writes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@attrs.frozen(kw_only=True)
class CgroupUsage:
    """The usage of a cgroup and its descendants: times in nanoseconds, sizes in bytes; None is "not measured", for a limit
    "none".

    `tasks` are threads; `processes` are those of the cgroup itself, since the kernel has no counter for its descendants.
    """

    cpu: int | None = None
    cpu_user: int | None = None
    cpu_system: int | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled: int | None = None
    memory: int | None = None
    inactive_file: int | None = None
    anonymous: int | None = None
    cache: int | None = None
    mapped_file: int | None = None
    kernel: int | None = None
    memory_most: int | None = None
    limit_hits: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    oom_kills: int | None = None
    swap: int | None = None
    tasks: int | None = None
    processes: int | None = None
    memory_limit: int | None = None
    swap_limit: int | None = None
    task_limit: int | None = None
    io: tuple[DeviceIo, ...] = ()
    cpu_psi: PsiStats | None = None
    memory_psi: PsiStats | None = None
    io_psi: PsiStats | None = None

    @property
    def working_set(self) -> int | None:
        """Usage less inactive file cache, not below zero."""
        return None if self.memory is None else max(0, self.memory - (self.inactive_file or 0))


@attrs.frozen(kw_only=True)
class ContainerUsage:
    """What a backend measured of a container. Parts that it cannot measure stay None."""

    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    swap: SwapUsage | None = None
    io: IoUsage | None = None
    process: ProcessUsage | None = None
    writable_layer: FilesystemUsage | None = None
    metrics: tuple[MetricSample, ...] = ()


@attrs.frozen(kw_only=True)
class SandboxUsage:
    """What a backend measured of a whole pod. `network` is None for the host network."""

    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    network: NetworkUsage | None = None
    process: ProcessUsage | None = None
    io: IoUsage | None = None
    metrics: tuple[MetricSample, ...] = ()


@attrs.frozen(kw_only=True)
class ContainerStats:
    """A container's usage with the attributes by which the kubelet joins it."""

    id: ContainerId
    metadata: ContainerMetadata
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    usage: ContainerUsage = ContainerUsage()


@attrs.frozen(kw_only=True)
class PodSandboxStats:
    """The usage of a pod and of its containers."""

    id: SandboxId
    metadata: PodSandboxMetadata
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    usage: SandboxUsage = SandboxUsage()
    containers: tuple[ContainerStats, ...] = ()


@attrs.frozen(kw_only=True)
class ContainerStatsFilter:
    """A filter of stats lists."""

    id: str = ""
    pod_sandbox_id: str = ""
    label_selector: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)


@attrs.frozen(kw_only=True)
class PodSandboxStatsFilter:
    """A filter of pod stats lists."""

    id: str = ""
    label_selector: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)


class MetricType(enum.IntEnum):
    """Whether a metric is a counter or a gauge."""

    COUNTER = 0
    GAUGE = 1


@attrs.frozen(kw_only=True)
class MetricDescriptor:
    """A metric that may appear: its help text, and the names of its labels, in the order of their values."""

    name: str
    help: str
    label_keys: tuple[str, ...]
    metric_type: MetricType = MetricType.GAUGE


@attrs.frozen(kw_only=True)
class Metric:
    """One value of a metric, with a value for each of its descriptor's labels. A timestamp of 0 means now."""

    name: str
    metric_type: MetricType
    label_values: tuple[str, ...]
    value: int
    timestamp: int = 0


@attrs.frozen(kw_only=True)
class ContainerMetrics:
    """A container's metrics."""

    container_id: ContainerId
    metrics: tuple[Metric, ...]


@attrs.frozen(kw_only=True)
class PodSandboxMetrics:
    """A pod's metrics and its containers'."""

    pod_sandbox_id: SandboxId
    metrics: tuple[Metric, ...]
    container_metrics: tuple[ContainerMetrics, ...]
