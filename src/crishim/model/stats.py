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
    """One line of a pressure file of the kernel."""

    total: int = 0
    """Nanoseconds of stall."""
    avg10: float = 0.0
    """Percent of the last 10 seconds."""
    avg60: float = 0.0
    """Percent of the last 60 seconds."""
    avg300: float = 0.0
    """Percent of the last 300 seconds."""


@attrs.frozen(kw_only=True)
class PsiStats:
    """The pressure stall information of a cgroup (v2 only)."""

    full: PsiData = PsiData()
    """Times in which all tasks were stalled."""
    some: PsiData = PsiData()
    """Times in which at least one task was stalled."""


@attrs.frozen(kw_only=True)
class CpuUsage:
    """CPU time."""

    timestamp: int
    """Nanoseconds since the epoch."""
    usage_core_nano_seconds: int | None = None
    """Nanoseconds of CPU time since the start, over all cores."""
    usage_nano_cores: int | None = None
    """The current rate, in billionths of a core; a backend leaves it unset."""
    psi: PsiStats | None = None
    """The pressure; None with cgroup v1."""


@attrs.frozen(kw_only=True)
class MemoryUsage:
    """Memory."""

    timestamp: int
    """Nanoseconds since the epoch."""
    working_set_bytes: int | None = None
    """Bytes in use, less the inactive file cache."""
    available_bytes: int | None = None
    """Bytes between the working set and the limit; None without a limit."""
    usage_bytes: int | None = None
    """Bytes in use, with all of the file cache."""
    rss_bytes: int | None = None
    """Bytes of anonymous memory."""
    page_faults: int | None = None
    """Their number since the start."""
    major_page_faults: int | None = None
    """The number of those that read from a disk."""
    psi: PsiStats | None = None
    """The pressure; None with cgroup v1."""


@attrs.frozen(kw_only=True)
class SwapUsage:
    """Swap."""

    timestamp: int
    """Nanoseconds since the epoch."""
    swap_available_bytes: int | None = None
    """Bytes between the usage and the limit; None without a limit."""
    swap_usage_bytes: int | None = None
    """Bytes in use."""


@attrs.frozen(kw_only=True)
class IoUsage:
    """Block I/O pressure."""

    timestamp: int
    """Nanoseconds since the epoch."""
    psi: PsiStats | None = None
    """The pressure; None with cgroup v1."""


@attrs.frozen(kw_only=True)
class ProcessUsage:
    """The number of processes."""

    timestamp: int
    """Nanoseconds since the epoch."""
    process_count: int | None = None
    """The number of tasks, as `pids.current` counts them."""


@attrs.frozen(kw_only=True)
class NetworkInterfaceUsage:
    """Counters of one interface."""

    name: str
    """The interface's name in the pod."""
    rx_bytes: int | None = None
    """Bytes received."""
    rx_errors: int | None = None
    """Errors of reception."""
    tx_bytes: int | None = None
    """Bytes sent."""
    tx_errors: int | None = None
    """Errors of transmission."""


@attrs.frozen(kw_only=True)
class NetworkUsage:
    """Counters of a pod's network namespace."""

    timestamp: int
    """Nanoseconds since the epoch."""
    default_interface: NetworkInterfaceUsage | None = None
    """eth0, else the first; None if there is no interface."""
    interfaces: tuple[NetworkInterfaceUsage, ...] = ()
    """All of them, the default one first, as in containerd (the proto says "excluding the default")."""


@attrs.frozen(kw_only=True)
class MetricSample:
    """One value of a metric. The labels of pod and container are added by the library."""

    name: str
    """The metric's name, as `ListMetricDescriptors` lists it."""
    value: int
    """The value, in the unit of the metric's name."""
    labels: tuple[str, ...] = ()
    """Values of the metric's own label keys, in their order."""


@attrs.frozen
class DeviceIo:
    """The I/O counters of a block device."""

    device: str
    """`major:minor`."""
    reads: int = 0
    """The number of reads."""
    writes: int = 0
    """The number of writes."""
    read_bytes: int = 0
    """Bytes."""
    written_bytes: int = 0
    """Bytes."""


@attrs.frozen(kw_only=True)
class CgroupUsage:
    """The usage of a cgroup and its descendants. None is "not measured"."""

    cpu: int | None = None
    """Nanoseconds of CPU time."""
    cpu_user: int | None = None
    """Nanoseconds of CPU time in user mode."""
    cpu_system: int | None = None
    """Nanoseconds of CPU time in the kernel."""
    periods: int | None = None
    """The number of periods of the CPU quota."""
    throttled_periods: int | None = None
    """The number of periods in which the quota was used up."""
    throttled: int | None = None
    """Nanoseconds of throttling."""
    memory: int | None = None
    """Bytes in use, with the file cache."""
    inactive_file: int | None = None
    """Bytes of the file cache that can be reclaimed first."""
    anonymous: int | None = None
    """Bytes of anonymous memory."""
    cache: int | None = None
    """Bytes of the file cache."""
    mapped_file: int | None = None
    """Bytes of mapped files."""
    kernel: int | None = None
    """Bytes of the kernel's memory."""
    memory_most: int | None = None
    """The most bytes that were in use."""
    limit_hits: int | None = None
    """How often the memory limit was reached."""
    page_faults: int | None = None
    """Their number."""
    major_page_faults: int | None = None
    """The number of those that read from a disk."""
    oom_kills: int | None = None
    """The number of processes that the out-of-memory killer killed."""
    swap: int | None = None
    """Bytes."""
    tasks: int | None = None
    """The number of threads."""
    processes: int | None = None
    """The number of processes in the cgroup itself, since the kernel has no counter for its descendants."""
    memory_limit: int | None = None
    """Bytes; None for no limit."""
    swap_limit: int | None = None
    """Bytes of swap alone; None for no limit."""
    task_limit: int | None = None
    """A number of threads; None for no limit."""
    io: tuple[DeviceIo, ...] = ()
    """The counters of each block device."""
    cpu_psi: PsiStats | None = None
    """The pressure; None with cgroup v1."""
    memory_psi: PsiStats | None = None
    """The pressure; None with cgroup v1."""
    io_psi: PsiStats | None = None
    """The pressure; None with cgroup v1."""

    @property
    def working_set(self) -> int | None:
        """Usage less inactive file cache, not below zero."""
        return None if self.memory is None else max(0, self.memory - (self.inactive_file or 0))


@attrs.frozen(kw_only=True)
class ContainerUsage:
    """What a backend measured of a container. Parts that it cannot measure stay None."""

    cpu: CpuUsage | None = None
    """CPU time."""
    memory: MemoryUsage | None = None
    """Memory."""
    swap: SwapUsage | None = None
    """Swap."""
    io: IoUsage | None = None
    """The pressure of block devices."""
    process: ProcessUsage | None = None
    """The number of processes."""
    writable_layer: FilesystemUsage | None = None
    """What the container has written to its root file system."""
    metrics: tuple[MetricSample, ...] = ()
    """Values of metrics that have no field here."""


@attrs.frozen(kw_only=True)
class SandboxUsage:
    """What a backend measured of a whole pod. Parts that it cannot measure stay None."""

    cpu: CpuUsage | None = None
    """CPU time of all containers and of the sandbox itself."""
    memory: MemoryUsage | None = None
    """Memory of all of them."""
    network: NetworkUsage | None = None
    """The counters of the network namespace; None on the host network."""
    process: ProcessUsage | None = None
    """The number of processes."""
    io: IoUsage | None = None
    """The pressure of block devices."""
    metrics: tuple[MetricSample, ...] = ()
    """Values of metrics that have no field here."""


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
