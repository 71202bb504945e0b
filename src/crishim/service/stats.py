"""The stats and metrics verbs of CRI: a backend's usage with the attributes by which the kubelet joins it.

`usage_nano_cores` is derived here from two samples of the same container or pod. It stays unset with one sample, or when the
counter went backwards. A container that cannot be measured is left out of a list. Where no backend claims SupportsStats,
ListContainerStats is empty, since an error would break the kubelet's whole summary; the other verbs are Unimplemented, and the
kubelet measures by itself.

`DESCRIPTORS` are the metrics of ListMetricDescriptors and ListPodSandboxMetrics. Their names are cAdvisor's, as clients
expect. The first labels of every metric name the container and the pod; a backend's own samples bring the values of the
others.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import attrs

from crishim.errors import CrishimError, Unavailable, Unimplemented
from crishim.interfaces.capabilities import SupportsStats
from crishim.lifecycle.filters import container_stats_match, sandbox_stats_match
from crishim.model.container import ContainerState
from crishim.model.sandbox import PodSandboxState
from crishim.model.stats import (
    ContainerMetrics,
    ContainerStats,
    ContainerStatsFilter,
    ContainerUsage,
    CpuUsage,
    MemoryUsage,
    Metric,
    MetricDescriptor,
    MetricSample,
    MetricType,
    NetworkUsage,
    PodSandboxMetrics,
    PodSandboxStats,
    PodSandboxStatsFilter,
    ProcessUsage,
    SandboxUsage,
)
from crishim.model.values import ContainerId, SandboxId
from crishim.service.core import Core
from crishim.service.entries import ContainerEntry, SandboxEntry

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
    """The samples that follow from a container's usage. A sample of the backend's own replaces a derived one of the
    same name.
    """
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
    """The samples of a pod's network, which belong to no container."""
    own = {sample.name for sample in usage.metrics}
    yield from usage.metrics
    yield from _present(_network(usage.network), own)


def metric(sample: MetricSample, base: tuple[str, ...]) -> Metric | None:
    """A metric with its label values in the order of the descriptor; None for a name without a descriptor."""
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


_log = logging.getLogger(__name__)
T = TypeVar("T")


_LIST_DEADLINE = 1.0
"""Seconds for one container or pod in a list; one that takes longer is left out."""

_POD_DEADLINE = 2.5
"""The same for a pod, of which the usage is measured first, and then that of its containers beside one another."""

_RATE_PERIOD = 1.0
"""The smallest interval between the two samples of a rate, in seconds."""


@attrs.frozen
class _Rate:
    """A sample of the CPU time of a container or pod, in nanoseconds, and the rate since the previous sample."""

    at: float
    used: int
    nano_cores: int | None = None


class Stats:
    """The stats verbs of CRI."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._rates: dict[str, _Rate] = {}

    async def container(self, container_id: ContainerId) -> ContainerStats:
        """The stats of one container. Raises `NotFound`, `Unimplemented`."""
        entry = self._core.table.container(container_id)
        self._core.handle(entry).require(SupportsStats)
        return await self._container(entry)

    async def containers(self, filter_: ContainerStatsFilter) -> list[ContainerStats]:
        """The stats of every started container that matches the filter; containers that cannot be measured are left out."""
        entries = [entry for entry in self._started() if container_stats_match(entry.item(), filter_)]
        return await self._measured(self._container(entry, _LIST_DEADLINE) for entry in entries)

    async def sandbox(self, sandbox_id: SandboxId) -> PodSandboxStats:
        """The stats of one pod. Raises `NotFound`, `Unimplemented`, and `Unavailable` for a pod that is not ready."""
        entry = self._core.table.sandbox(sandbox_id)
        self._core.handle(entry).require(SupportsStats)
        if entry.state is not PodSandboxState.READY:
            raise Unavailable(f"sandbox {sandbox_id} is not ready")
        return await self._sandbox(entry)

    async def sandboxes(self, filter_: PodSandboxStatsFilter) -> list[PodSandboxStats]:
        """The stats of every ready pod that matches the filter."""
        pods = [entry for entry in self._ready() if sandbox_stats_match(entry.item(), filter_)]
        return await self._measured((self._sandbox(entry, _LIST_DEADLINE) for entry in pods), _POD_DEADLINE)

    async def metric_descriptors(self) -> tuple[MetricDescriptor, ...]:
        """The descriptor of every metric that may appear."""
        self._claimed()
        return tuple(DESCRIPTORS.values())

    async def metrics(self) -> list[PodSandboxMetrics]:
        """The metrics of every ready pod and its containers."""
        return await self._measured((self._sandbox_metrics(entry) for entry in self._ready()), _POD_DEADLINE)

    def _claimed(self) -> None:
        if not any(SupportsStats in handle.capabilities for handle in self._core.backends.handles):
            raise Unimplemented(SupportsStats.__name__)

    def _ready(self) -> list[SandboxEntry]:
        self._claimed()
        return [
            entry
            for entry in self._core.table.sandboxes.values()
            if entry.state is PodSandboxState.READY and self._measures(entry)
        ]

    def _measures(self, entry: SandboxEntry | ContainerEntry) -> bool:
        try:
            return SupportsStats in self._core.handle(entry).capabilities
        except Unavailable:
            return False

    def _started(self) -> list[ContainerEntry]:
        return [
            entry
            for entry in self._core.table.containers.values()
            if entry.state in {ContainerState.RUNNING, ContainerState.EXITED} and self._measures(entry)
        ]

    async def _measured(self, works: Iterable[Coroutine[Any, Any, T]], timeout: float | None = None) -> list[T]:
        """The results that arrive within `timeout` (`_LIST_DEADLINE` if it is None), in the order of `works`.

        A measurement that takes longer, such as one that waits for a probe, continues in the background and its result is
        dropped.
        """
        tasks = [self._core.tasks.spawn(work, "stats of a list") for work in works]
        if tasks:
            await asyncio.wait(tasks, timeout=_LIST_DEADLINE if timeout is None else timeout)
        results = []
        for task in tasks:
            error = task.exception() if task.done() and not task.cancelled() else None
            if not task.done() or isinstance(error, CrishimError):
                _log.debug("left out of a stats list: %s", error or "it takes too long")
            else:
                results.append(task.result())
        return results

    async def _container(self, entry: ContainerEntry, deadline: float | None = None) -> ContainerStats:
        handle = self._core.handle(entry)
        backend = handle.require(SupportsStats)
        usage = await handle.call("container_usage", backend.container_usage(entry.id), deadline)
        config = entry.record.config
        return ContainerStats(
            id=entry.id,
            metadata=config.metadata,
            labels=config.labels,
            annotations=config.annotations,
            usage=attrs.evolve(usage, cpu=self._with_nano_cores(entry.id, usage.cpu)),
        )

    async def _sandbox(self, entry: SandboxEntry, deadline: float | None = None) -> PodSandboxStats:
        handle = self._core.handle(entry)
        backend = handle.require(SupportsStats)
        usage = await handle.call("sandbox_usage", backend.sandbox_usage(entry.id), deadline)
        running = [container for container in entry.containers.values() if container.state is ContainerState.RUNNING]
        config = entry.record.config
        return PodSandboxStats(
            id=entry.id,
            metadata=config.metadata,
            labels=config.labels,
            annotations=config.annotations,
            usage=attrs.evolve(usage, cpu=self._with_nano_cores(entry.id, usage.cpu)),
            containers=tuple(await self._measured(self._container(container, _LIST_DEADLINE) for container in running)),
        )

    async def _sandbox_metrics(self, entry: SandboxEntry) -> PodSandboxMetrics:
        stats = await self._sandbox(entry, _LIST_DEADLINE)
        pod = (stats.metadata.namespace, stats.metadata.name)
        containers = []
        for container in stats.containers:
            container_entry = self._core.table.containers.get(container.id)
            image = container_entry.record.image if container_entry else ""
            labels = (container.id, image, *pod, container.metadata.name)
            samples = [*container_samples(container.usage), *self._lifetime(container_entry)]
            containers.append(ContainerMetrics(container_id=container.id, metrics=_metrics(samples, labels)))
        base = (stats.id, "", *pod, "")
        return PodSandboxMetrics(
            pod_sandbox_id=stats.id, metrics=_metrics(sandbox_samples(stats.usage), base), container_metrics=tuple(containers)
        )

    def _lifetime(self, entry: ContainerEntry | None) -> Iterable[MetricSample]:
        if entry is None:
            return
        limits = entry.record.resources
        second = 1_000_000_000
        yield MetricSample(name="container_start_time_seconds", value=entry.started_at // second)
        yield MetricSample(name="container_last_seen", value=self._core.clock.now() // second)
        yield MetricSample(name="container_spec_cpu_period", value=limits.cpu_period)
        yield MetricSample(name="container_spec_cpu_shares", value=limits.cpu_shares)
        yield MetricSample(name="container_spec_memory_limit_bytes", value=limits.memory_limit_in_bytes)
        yield MetricSample(name="container_spec_memory_swap_limit_bytes", value=limits.memory_swap_limit_in_bytes)

    def _with_nano_cores(self, subject: str, now: CpuUsage | None) -> CpuUsage | None:
        """Fill in the rate since the last sample that is at least `_RATE_PERIOD` old, by the monotonic clock.

        Calls within that period get the same rate again, so that the rate does not depend on how often clients ask.
        """
        if now is None or now.usage_core_nano_seconds is None or now.usage_nano_cores is not None:
            return now
        if len(self._rates) > 2 * (len(self._core.table.containers) + len(self._core.table.sandboxes)) + 16:
            self._rates.clear()
        at, used = self._core.clock.monotonic(), now.usage_core_nano_seconds
        before = self._rates.get(subject)
        if before is None or used < before.used:
            self._rates[subject] = _Rate(at, used)
            return now
        if at - before.at >= _RATE_PERIOD:
            before = self._rates[subject] = _Rate(at, used, int((used - before.used) / (at - before.at)))
        return attrs.evolve(now, usage_nano_cores=before.nano_cores)


def _metrics(samples: Iterable[MetricSample], base: tuple[str, ...]) -> tuple[Metric, ...]:
    return tuple(value for sample in samples if (value := metric(sample, base)) is not None)
