"""The stats and metrics families: a backend's figures with the names that the kubelet joins them by.

`usage_nano_cores` is derived here from two samples of the same subject; with one sample, or a counter that went back, it
stays unset, never a guess. One container that cannot be measured is left out of a list instead of failing it. Where no backend
claims SupportsStats, ListContainerStats is empty (an error there would break the kubelet's whole summary) and the rest is
Unimplemented (the kubelet then measures by itself).
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

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
    CpuUsage,
    Metric,
    MetricDescriptor,
    MetricSample,
    PodSandboxMetrics,
    PodSandboxStats,
    PodSandboxStatsFilter,
)
from crishim.model.values import ContainerId, SandboxId
from crishim.service.core import Core
from crishim.service.metrics import DESCRIPTORS, container_samples, metric, sandbox_samples
from crishim.service.table import ContainerEntry, SandboxEntry

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Stats:
    """The stats verbs of CRI."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._cpu: dict[str, CpuUsage] = {}

    async def container(self, container_id: ContainerId) -> ContainerStats:
        """One container's figures. Raises `NotFound`, `Unimplemented`."""
        entry = self._core.table.container(container_id)
        self._core.seat(entry).require(SupportsStats)
        return await self._container(entry)

    async def containers(self, wanted: ContainerStatsFilter) -> list[ContainerStats]:
        """The figures of every container that was started and is let through; what cannot be measured is left out."""
        entries = [entry for entry in self._started() if container_stats_match(entry.item(), wanted)]
        return await self._measured(self._container(entry) for entry in entries)

    async def sandbox(self, sandbox_id: SandboxId) -> PodSandboxStats:
        """One pod's figures. Raises `NotFound`, `Unimplemented`, `Unavailable` for a pod that is not ready."""
        entry = self._core.table.sandbox(sandbox_id)
        self._core.seat(entry).require(SupportsStats)
        if entry.state is not PodSandboxState.READY:
            raise Unavailable(f"sandbox {sandbox_id} is not ready")
        return await self._sandbox(entry)

    async def sandboxes(self, wanted: PodSandboxStatsFilter) -> list[PodSandboxStats]:
        """The figures of every ready pod that is let through."""
        return await self._measured(
            self._sandbox(entry) for entry in self._ready() if sandbox_stats_match(entry.item(), wanted)
        )

    async def metric_descriptors(self) -> tuple[MetricDescriptor, ...]:
        """Every metric that may appear."""
        self._claimed()
        return tuple(DESCRIPTORS.values())

    async def metrics(self) -> list[PodSandboxMetrics]:
        """The metrics of every ready pod and its containers."""
        return await self._measured(self._sandbox_metrics(entry) for entry in self._ready())

    def _claimed(self) -> None:
        if not any(SupportsStats in seat.capabilities for seat in self._core.backends.seats):
            raise Unimplemented(SupportsStats.__name__)

    def _ready(self) -> list[SandboxEntry]:
        self._claimed()
        return [
            entry
            for entry in self._core.table.sandboxes.values()
            if entry.state is PodSandboxState.READY and SupportsStats in self._core.seat(entry).capabilities
        ]

    def _started(self) -> list[ContainerEntry]:
        return [
            entry
            for entry in self._core.table.containers.values()
            if entry.state in {ContainerState.RUNNING, ContainerState.EXITED}
            and SupportsStats in self._core.seat(entry).capabilities
        ]

    async def _measured(self, works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        figures = []
        for outcome in await asyncio.gather(*works, return_exceptions=True):
            if isinstance(outcome, CrishimError):
                _log.debug("left out of a stats list: %s", outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                figures.append(outcome)
        return figures

    async def _container(self, entry: ContainerEntry) -> ContainerStats:
        seat = self._core.seat(entry)
        backend = seat.require(SupportsStats)
        usage = await seat.call("container_usage", backend.container_usage(entry.id))
        config = entry.record.config
        return ContainerStats(
            id=entry.id,
            metadata=config.metadata,
            labels=config.labels,
            annotations=config.annotations,
            usage=attrs.evolve(usage, cpu=self._with_nano_cores(entry.id, usage.cpu)),
        )

    async def _sandbox(self, entry: SandboxEntry) -> PodSandboxStats:
        seat = self._core.seat(entry)
        backend = seat.require(SupportsStats)
        usage = await seat.call("sandbox_usage", backend.sandbox_usage(entry.id))
        running = [container for container in entry.containers.values() if container.state is ContainerState.RUNNING]
        config = entry.record.config
        return PodSandboxStats(
            id=entry.id,
            metadata=config.metadata,
            labels=config.labels,
            annotations=config.annotations,
            usage=attrs.evolve(usage, cpu=self._with_nano_cores(entry.id, usage.cpu)),
            containers=tuple(await self._measured(self._container(container) for container in running)),
        )

    async def _sandbox_metrics(self, entry: SandboxEntry) -> PodSandboxMetrics:
        stats = await self._sandbox(entry)
        pod = (stats.metadata.namespace, stats.metadata.name)
        containers = []
        for container in stats.containers:
            held = self._core.table.containers.get(container.id)
            image = held.record.image if held else ""
            labels = (container.id, image, *pod, container.metadata.name)
            samples = [*container_samples(container.usage), *self._lifetime(held)]
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
        if now is None or now.usage_core_nano_seconds is None:
            return now
        before = self._cpu.get(subject)
        if len(self._cpu) > 2 * (len(self._core.table.containers) + len(self._core.table.sandboxes)) + 16:
            self._cpu.clear()
        self._cpu[subject] = now
        if now.usage_nano_cores is not None or before is None or before.usage_core_nano_seconds is None:
            return now
        used = now.usage_core_nano_seconds - before.usage_core_nano_seconds
        passed = now.timestamp - before.timestamp
        if used < 0 or passed <= 0:
            return now
        return attrs.evolve(now, usage_nano_cores=used * 1_000_000_000 // passed)


def _metrics(samples: Iterable[MetricSample], base: tuple[str, ...]) -> tuple[Metric, ...]:
    return tuple(made for sample in samples if (made := metric(sample, base)) is not None)
