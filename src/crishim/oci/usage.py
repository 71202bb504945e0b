"""Parses a cgroup's files, into one class for both versions of cgroups.

The choice of files follows the kubelet's cAdvisor: the working set is usage minus inactive file cache; resident memory is
anonymous memory; a limit above 2^62 is none. A missing file is read as "", and its values are None.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs

from crishim.model.stats import (
    CgroupUsage,
    ContainerUsage,
    CpuUsage,
    DeviceIo,
    IoUsage,
    MemoryUsage,
    MetricSample,
    ProcessUsage,
    PsiData,
    PsiStats,
    SandboxUsage,
    SwapUsage,
)

__all__ = ["container_usage", "sandbox_usage", "sum_usage"]

Read = Callable[[str], str]
"""The text of a file, by name; "" if it does not exist."""

_UNLIMITED: Final = 1 << 62
_NANO: Final = 1_000_000_000


def parse_cgroup_v2(read: Read) -> CgroupUsage:
    """The usage from the files of a folder of the unified hierarchy."""
    cpu, memory, events = (_table(read(name)) for name in ("cpu.stat", "memory.stat", "memory.events"))
    return CgroupUsage(
        cpu=_times(cpu.get("usage_usec"), 1000),
        cpu_user=_times(cpu.get("user_usec"), 1000),
        cpu_system=_times(cpu.get("system_usec"), 1000),
        periods=cpu.get("nr_periods"),
        throttled_periods=cpu.get("nr_throttled"),
        throttled=_times(cpu.get("throttled_usec"), 1000),
        memory=_number(read("memory.current")),
        inactive_file=memory.get("inactive_file"),
        anonymous=memory.get("anon"),
        cache=memory.get("file"),
        mapped_file=memory.get("file_mapped"),
        kernel=memory.get("kernel", _sum(memory, "kernel_stack", "pagetables", "percpu", "slab")),
        memory_most=_number(read("memory.peak")),
        limit_hits=events.get("max"),
        page_faults=memory.get("pgfault"),
        major_page_faults=memory.get("pgmajfault"),
        oom_kills=events.get("oom_kill"),
        swap=_number(read("memory.swap.current")),
        tasks=_number(read("pids.current")),
        processes=_lines(read("cgroup.procs")),
        memory_limit=_number(read("memory.max")),
        swap_limit=_number(read("memory.swap.max")),
        task_limit=_number(read("pids.max")),
        io=tuple(_io_v2(read("io.stat"))),
        cpu_psi=_psi(read("cpu.pressure")),
        memory_psi=_psi(read("memory.pressure")),
        io_psi=_psi(read("io.pressure")),
    )


def parse_cgroup_v1(read: Read) -> CgroupUsage:
    """The usage from the folders of the controllers; `read` takes `<controller>/<file>`."""
    cpu, memory = (_table(read(name)) for name in ("cpu/cpu.stat", "memory/memory.stat"))
    used, used_with_swap = (_number(read(f"memory/memory.{kind}usage_in_bytes")) for kind in ("", "memsw."))
    limit, limit_with_swap = (_limit(read(f"memory/memory.{kind}limit_in_bytes")) for kind in ("", "memsw."))
    return CgroupUsage(
        cpu=_number(read("cpuacct/cpuacct.usage")),
        cpu_user=_number(read("cpuacct/cpuacct.usage_user")),
        cpu_system=_number(read("cpuacct/cpuacct.usage_sys")),
        periods=cpu.get("nr_periods"),
        throttled_periods=cpu.get("nr_throttled"),
        throttled=cpu.get("throttled_time"),
        memory=used,
        inactive_file=memory.get("total_inactive_file"),
        anonymous=memory.get("total_rss"),
        cache=memory.get("total_cache"),
        mapped_file=memory.get("total_mapped_file"),
        kernel=_number(read("memory/memory.kmem.usage_in_bytes")),
        memory_most=_number(read("memory/memory.max_usage_in_bytes")),
        limit_hits=_number(read("memory/memory.failcnt")),
        page_faults=memory.get("total_pgfault"),
        major_page_faults=memory.get("total_pgmajfault"),
        oom_kills=_table(read("memory/memory.oom_control")).get("oom_kill"),
        swap=memory.get("total_swap") if used is None or used_with_swap is None else max(0, used_with_swap - used),
        tasks=_number(read("pids/pids.current")),
        processes=_lines(read("memory/cgroup.procs")),
        memory_limit=limit,
        swap_limit=None if limit is None or limit_with_swap is None else max(0, limit_with_swap - limit),
        task_limit=_number(read("pids/pids.max")),
        io=tuple(
            _io_v1(read("blkio/blkio.throttle.io_serviced_recursive"), read("blkio/blkio.throttle.io_service_bytes_recursive"))
        ),
    )


_NOT_SUMS: Final = {"memory_limit", "swap_limit", "task_limit", "io", "cpu_psi", "memory_psi", "io_psi"}


def sum_usage(parts: Iterable[CgroupUsage]) -> CgroupUsage:
    """The sum of several cgroups' usage, without limits, devices and pressure."""
    totals: dict[str, int] = {}
    for part in parts:
        for field in attrs.fields(CgroupUsage):
            value = None if field.name in _NOT_SUMS else getattr(part, field.name)
            if value is not None:
                totals[field.name] = totals.get(field.name, 0) + value
    return CgroupUsage(**totals)  # type: ignore[arg-type]  # the names are those of integer fields


def container_usage(usage: CgroupUsage, now: int) -> ContainerUsage:
    """The usage of a cgroup as CRI's values, read at `now` (nanoseconds since the epoch); an empty usage gives empty values."""
    if usage == CgroupUsage():
        return ContainerUsage()
    return ContainerUsage(
        cpu=CpuUsage(timestamp=now, usage_core_nano_seconds=usage.cpu, psi=usage.cpu_psi),
        memory=MemoryUsage(
            timestamp=now,
            working_set_bytes=usage.working_set,
            available_bytes=_left(usage.memory_limit, usage.working_set),
            usage_bytes=usage.memory,
            rss_bytes=usage.anonymous,
            page_faults=usage.page_faults,
            major_page_faults=usage.major_page_faults,
            psi=usage.memory_psi,
        ),
        swap=SwapUsage(timestamp=now, swap_usage_bytes=usage.swap, swap_available_bytes=_left(usage.swap_limit, usage.swap)),
        io=IoUsage(timestamp=now, psi=usage.io_psi),
        process=ProcessUsage(timestamp=now, process_count=usage.tasks),
        metrics=tuple(_samples(usage)),
    )


def sandbox_usage(usage: CgroupUsage, now: int) -> SandboxUsage:
    """The usage of a pod's cgroup, or the sum of its containers', as `container_usage`. The network is no part of it."""
    measured = container_usage(usage, now)
    return SandboxUsage(cpu=measured.cpu, memory=measured.memory, process=measured.process, io=measured.io)


def _samples(usage: CgroupUsage) -> Iterator[MetricSample]:
    """The metrics that ContainerUsage has no field for."""
    for name, value in (
        ("container_cpu_user_seconds_total", _whole_seconds(usage.cpu_user)),
        ("container_cpu_system_seconds_total", _whole_seconds(usage.cpu_system)),
        ("container_cpu_cfs_periods_total", usage.periods),
        ("container_cpu_cfs_throttled_periods_total", usage.throttled_periods),
        ("container_cpu_cfs_throttled_seconds_total", _whole_seconds(usage.throttled)),
        ("container_memory_cache", usage.cache),
        ("container_memory_mapped_file", usage.mapped_file),
        ("container_memory_kernel_usage", usage.kernel),
        ("container_memory_max_usage_bytes", usage.memory_most),
        ("container_memory_failcnt", usage.limit_hits),
        ("container_oom_events_total", usage.oom_kills),
        ("container_processes", usage.processes),
        ("container_threads", usage.tasks),
        ("container_threads_max", usage.task_limit or 0),
    ):
        if value is not None:
            yield MetricSample(name=name, value=value)
    for io in usage.io:
        for name, value in (
            ("container_fs_reads_total", io.reads),
            ("container_fs_writes_total", io.writes),
            ("container_fs_reads_bytes_total", io.read_bytes),
            ("container_fs_writes_bytes_total", io.written_bytes),
        ):
            yield MetricSample(name=name, value=value, labels=(io.device,))
        for operation, value in (("Read", io.read_bytes), ("Write", io.written_bytes)):
            yield MetricSample(name="container_blkio_device_usage_total", value=value, labels=(io.device, operation))


def _number(text: str) -> int | None:
    """The number in a file; None for `max`."""
    text = text.strip()
    return int(text) if text.isdigit() else None


def _limit(text: str) -> int | None:
    value = _number(text)
    return None if value is None or value > _UNLIMITED else value


def _table(text: str) -> dict[str, int]:
    """Parse lines of a name and a number."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _lines(text: str) -> int | None:
    return text.count("\n") if text else None


def _times(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor


def _whole_seconds(value: int | None) -> int | None:
    return None if value is None else value // _NANO


def _sum(table: dict[str, int], *names: str) -> int | None:
    return sum(table.get(name, 0) for name in names) if table else None


def _left(limit: int | None, used: int | None) -> int | None:
    return None if limit is None or used is None else max(0, limit - used)


def _io_v2(text: str) -> Iterator[DeviceIo]:
    """Parse io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6` per device."""
    for line in text.splitlines():
        device, *rest = line.split()
        values = {key: int(value) for key, _, value in (pair.partition("=") for pair in rest) if value.isdigit()}
        if values:
            keys = ("rios", "wios", "rbytes", "wbytes")
            yield DeviceIo(device, *(values.get(key, 0) for key in keys))


def _io_v1(counts: str, sizes: str) -> Iterator[DeviceIo]:
    """Parse the two files of blkio: `8:0 Read 12` per device and operation, and a total."""
    devices: dict[str, dict[str, int]] = {}
    for prefix, text in (("n", counts), ("b", sizes)):
        for line in text.splitlines():
            match line.split():
                case [device, ("Read" | "Write") as operation, value]:
                    devices.setdefault(device, {})[prefix + operation] = int(value)
    for device, values in devices.items():
        yield DeviceIo(device, *(values.get(key, 0) for key in ("nRead", "nWrite", "bRead", "bWrite")))


def _psi(text: str) -> PsiStats | None:
    """Parse a pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full` likewise; totals in microseconds."""
    pressures: dict[str, PsiData] = {}
    for line in text.splitlines():
        kind, *rest = line.split()
        values = dict(pair.split("=", 1) for pair in rest)
        pressures[kind] = PsiData(
            total=int(values["total"]) * 1000,
            avg10=float(values["avg10"]),
            avg60=float(values["avg60"]),
            avg300=float(values["avg300"]),
        )
    return PsiStats(full=pressures.get("full", PsiData()), some=pressures.get("some", PsiData())) if pressures else None
