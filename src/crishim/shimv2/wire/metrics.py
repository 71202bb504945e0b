"""Conversion between a cgroup's usage and containerd's cgroup metrics, of either version of cgroups (pure).

A shim sends the version of the host, even for a virtual machine whose guest has the other one.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from google.protobuf.any_pb2 import Any

from crishim._proto import UNDECODABLE
from crishim._proto import cgroups_v1_pb2 as v1
from crishim._proto import cgroups_v2_pb2 as v2
from crishim.model.stats import CgroupUsage, DeviceIo, PsiData, PsiStats
from crishim.shimv2.wire.messages import packed

_UNLIMITED: Final = 1 << 62
_MICRO: Final = 1000


def decode_metrics(stats: Any) -> CgroupUsage:
    """The usage in a response to Stats; without any values if the type is unknown or the message invalid."""
    read = _READERS.get(stats.type_url.rpartition("/")[2])
    if read is None:
        return CgroupUsage()
    try:
        return read(stats.value)
    except UNDECODABLE:
        return CgroupUsage()


def _from_v1(value: bytes) -> CgroupUsage:
    metrics = v1.Metrics.FromString(value)
    memory = metrics.memory
    used = memory.usage.usage
    limit, limit_with_swap = _limit(memory.usage.limit), _limit(memory.swap.limit)
    return CgroupUsage(
        cpu=metrics.cpu.usage.total,
        cpu_user=metrics.cpu.usage.user,
        cpu_system=metrics.cpu.usage.kernel,
        periods=metrics.cpu.throttling.periods,
        throttled_periods=metrics.cpu.throttling.throttled_periods,
        throttled=metrics.cpu.throttling.throttled_time,
        memory=used,
        inactive_file=memory.total_inactive_file,
        anonymous=memory.total_rss,
        cache=memory.total_cache,
        mapped_file=memory.total_mapped_file,
        kernel=memory.kernel.usage,
        memory_most=memory.usage.max,
        limit_hits=memory.usage.failcnt,
        page_faults=memory.total_pg_fault,
        major_page_faults=memory.total_pg_maj_fault,
        oom_kills=metrics.memory_oom_control.oom_kill if metrics.HasField("memory_oom_control") else None,
        swap=max(0, memory.swap.usage - used) if memory.HasField("swap") else None,
        tasks=metrics.pids.current if metrics.HasField("pids") else None,
        memory_limit=limit,
        swap_limit=None if limit is None or limit_with_swap is None else max(0, limit_with_swap - limit),
        task_limit=metrics.pids.limit or None,
        io=_io_v1(metrics.blkio),
    )


def _io_v1(blkio: v1.BlkIOStat) -> tuple[DeviceIo, ...]:
    devices: dict[str, dict[str, int]] = {}
    for entries, read, written in (
        (blkio.io_serviced_recursive, "reads", "writes"),
        (blkio.io_service_bytes_recursive, "read_bytes", "written_bytes"),
    ):
        for entry in entries:
            name = {"read": read, "write": written}.get(entry.op.lower())
            if name is not None:
                device = devices.setdefault(f"{entry.major}:{entry.minor}", {})
                device[name] = device.get(name, 0) + entry.value
    return tuple(DeviceIo(device, **counts) for device, counts in sorted(devices.items()))


def _from_v2(value: bytes) -> CgroupUsage:
    metrics = v2.Metrics.FromString(value)
    cpu, memory = metrics.cpu, metrics.memory
    return CgroupUsage(
        cpu=cpu.usage_usec * _MICRO,
        cpu_user=cpu.user_usec * _MICRO,
        cpu_system=cpu.system_usec * _MICRO,
        periods=cpu.nr_periods,
        throttled_periods=cpu.nr_throttled,
        throttled=cpu.throttled_usec * _MICRO,
        memory=memory.usage,
        inactive_file=memory.inactive_file,
        anonymous=memory.anon,
        cache=memory.file,
        mapped_file=memory.file_mapped,
        kernel=memory.kernel_stack + memory.slab,
        memory_most=memory.max_usage or None,
        limit_hits=metrics.memory_events.max if metrics.HasField("memory_events") else None,
        page_faults=memory.pgfault,
        major_page_faults=memory.pgmajfault,
        oom_kills=metrics.memory_events.oom_kill if metrics.HasField("memory_events") else None,
        swap=memory.swap_usage,
        tasks=metrics.pids.current if metrics.HasField("pids") else None,
        memory_limit=_limit(memory.usage_limit),
        swap_limit=_limit(memory.swap_limit),
        task_limit=_limit(metrics.pids.limit),
        io=tuple(
            DeviceIo(f"{entry.major}:{entry.minor}", entry.rios, entry.wios, entry.rbytes, entry.wbytes)
            for entry in metrics.io.usage
        ),
        cpu_psi=_psi(cpu.psi) if cpu.HasField("psi") else None,
        memory_psi=_psi(memory.psi) if memory.HasField("psi") else None,
        io_psi=_psi(metrics.io.psi) if metrics.io.HasField("psi") else None,
    )


def _psi(psi: v2.PSIStats) -> PsiStats:
    """Beware: here `some` is number 1 and `full` number 2; in CRI's message it is the other way round. Totals are
    microseconds.
    """
    return PsiStats(full=_psi_data(psi.full), some=_psi_data(psi.some))


def _psi_data(line: v2.PSIData) -> PsiData:
    return PsiData(total=line.total * _MICRO, avg10=line.avg10, avg60=line.avg60, avg300=line.avg300)


def _limit(value: int) -> int | None:
    return value if 0 < value < _UNLIMITED else None


_READERS: Final[dict[str, Callable[[bytes], CgroupUsage]]] = {
    "io.containerd.cgroups.v1.Metrics": _from_v1,
    "io.containerd.cgroups.v2.Metrics": _from_v2,
}


_V1_UNLIMITED: Final = (1 << 63) - 4096
"""The value of cgroup v1 for no limit."""
_NO_LIMIT: Final = (1 << 64) - 1


def encode_metrics(usage: CgroupUsage, *, unified: bool) -> Any:
    """The metrics of a node with this version of cgroups; a value that was not measured is 0.

    All messages that clients in Go read without a check are there: CRI-O ends at a missing one.
    """
    if unified:
        return packed("io.containerd.cgroups.v2.Metrics", _v2(usage))
    return packed("io.containerd.cgroups.v1.Metrics", _v1(usage))


def _v1(usage: CgroupUsage) -> v1.Metrics:
    memory = v1.MemoryStat(
        cache=usage.cache or 0,
        rss=usage.anonymous or 0,
        total_cache=usage.cache or 0,
        total_rss=usage.anonymous or 0,
        total_mapped_file=usage.mapped_file or 0,
        total_inactive_file=usage.inactive_file or 0,
        total_pg_fault=usage.page_faults or 0,
        total_pg_maj_fault=usage.major_page_faults or 0,
        usage=v1.MemoryEntry(
            limit=usage.memory_limit or _V1_UNLIMITED,
            usage=usage.memory or 0,
            max=usage.memory_most or 0,
            failcnt=usage.limit_hits or 0,
        ),
        swap=v1.MemoryEntry(
            limit=_V1_UNLIMITED if usage.swap_limit is None else usage.swap_limit + (usage.memory_limit or 0),
            usage=(usage.memory or 0) + (usage.swap or 0),
        ),
        kernel=v1.MemoryEntry(usage=usage.kernel or 0),
        kernel_tcp=v1.MemoryEntry(),
    )
    cpu = v1.CPUStat(
        usage=v1.CPUUsage(total=usage.cpu or 0, user=usage.cpu_user or 0, kernel=usage.cpu_system or 0),
        throttling=v1.Throttle(
            periods=usage.periods or 0,
            throttled_periods=usage.throttled_periods or 0,
            throttled_time=usage.throttled or 0,
        ),
    )
    return v1.Metrics(
        cpu=cpu,
        memory=memory,
        pids=v1.PidsStat(current=usage.tasks or 0, limit=usage.task_limit or 0),
        memory_oom_control=v1.MemoryOomControl(oom_kill=usage.oom_kills or 0),
        blkio=v1.BlkIOStat(
            io_service_bytes_recursive=_blkio(usage.io, lambda io: (io.read_bytes, io.written_bytes)),
            io_serviced_recursive=_blkio(usage.io, lambda io: (io.reads, io.writes)),
        ),
    )


def _blkio(devices: Iterable[DeviceIo], counts: Callable[[DeviceIo], tuple[int, int]]) -> Iterator[v1.BlkIOEntry]:
    for device in devices:
        major, minor = map(int, device.device.split(":"))
        for op, value in zip(("Read", "Write"), counts(device), strict=True):
            yield v1.BlkIOEntry(op=op, major=major, minor=minor, value=value)


def _v2(usage: CgroupUsage) -> v2.Metrics:
    cpu = v2.CPUStat(
        usage_usec=(usage.cpu or 0) // _MICRO,
        user_usec=(usage.cpu_user or 0) // _MICRO,
        system_usec=(usage.cpu_system or 0) // _MICRO,
        nr_periods=usage.periods or 0,
        nr_throttled=usage.throttled_periods or 0,
        throttled_usec=(usage.throttled or 0) // _MICRO,
        psi=_encoded_psi(usage.cpu_psi),
    )
    memory = v2.MemoryStat(
        anon=usage.anonymous or 0,
        file=usage.cache or 0,
        file_mapped=usage.mapped_file or 0,
        inactive_file=usage.inactive_file or 0,
        kernel_stack=usage.kernel or 0,
        pgfault=usage.page_faults or 0,
        pgmajfault=usage.major_page_faults or 0,
        usage=usage.memory or 0,
        usage_limit=usage.memory_limit or _NO_LIMIT,
        swap_usage=usage.swap or 0,
        swap_limit=_NO_LIMIT if usage.swap_limit is None else usage.swap_limit,
        max_usage=usage.memory_most or 0,
        psi=_encoded_psi(usage.memory_psi),
    )
    return v2.Metrics(
        cpu=cpu,
        memory=memory,
        pids=v2.PidsStat(current=usage.tasks or 0, limit=usage.task_limit or 0),
        memory_events=v2.MemoryEvents(max=usage.limit_hits or 0, oom_kill=usage.oom_kills or 0),
        io=v2.IOStat(usage=map(_io_v2, usage.io), psi=_encoded_psi(usage.io_psi)),
    )


def _io_v2(device: DeviceIo) -> v2.IOEntry:
    major, minor = map(int, device.device.split(":"))
    return v2.IOEntry(
        major=major,
        minor=minor,
        rios=device.reads,
        wios=device.writes,
        rbytes=device.read_bytes,
        wbytes=device.written_bytes,
    )


def _encoded_psi(psi: PsiStats | None) -> v2.PSIStats | None:
    if psi is None:
        return None
    full, some = (
        v2.PSIData(total=line.total // _MICRO, avg10=line.avg10, avg60=line.avg60, avg300=line.avg300)
        for line in (psi.full, psi.some)
    )
    return v2.PSIStats(full=full, some=some)
