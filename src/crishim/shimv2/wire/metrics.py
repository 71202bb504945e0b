"""Figures of a cgroup -> containerd's metrics of either version, the other way of `metrics` (pure)."""

from typing import Final

from google.protobuf.any_pb2 import Any

from crishim._proto import cgroups_v1_pb2 as v1
from crishim._proto import cgroups_v2_pb2 as v2
from crishim.oci.figures import Figures
from crishim.shimv2.wire.messages import packed

_UNLIMITED: Final = (1 << 63) - 4096
"""What cgroup v1 shows for no limit."""
_NO_LIMIT: Final = (1 << 64) - 1
_MICRO: Final = 1000


def report(figures: Figures, *, unified: bool) -> Any:
    """The metrics that a node with this version of cgroups has; what was not measured is 0."""
    if unified:
        return packed("io.containerd.cgroups.v2.Metrics", _v2(figures))
    return packed("io.containerd.cgroups.v1.Metrics", _v1(figures))


def _v1(figures: Figures) -> v1.Metrics:
    memory = v1.MemoryStat(
        cache=figures.cache or 0,
        rss=figures.anonymous or 0,
        total_cache=figures.cache or 0,
        total_rss=figures.anonymous or 0,
        total_mapped_file=figures.mapped_file or 0,
        total_inactive_file=figures.inactive_file or 0,
        total_pg_fault=figures.page_faults or 0,
        total_pg_maj_fault=figures.major_page_faults or 0,
        usage=v1.MemoryEntry(
            limit=figures.memory_limit or _UNLIMITED,
            usage=figures.memory or 0,
            max=figures.memory_most or 0,
            failcnt=figures.limit_hits or 0,
        ),
        swap=v1.MemoryEntry(
            limit=_UNLIMITED if figures.swap_limit is None else figures.swap_limit + (figures.memory_limit or 0),
            usage=(figures.memory or 0) + (figures.swap or 0),
        ),
        kernel=v1.MemoryEntry(usage=figures.kernel or 0),
    )
    cpu = v1.CPUStat(
        usage=v1.CPUUsage(total=figures.cpu or 0, user=figures.cpu_user or 0, kernel=figures.cpu_system or 0),
        throttling=v1.Throttle(
            periods=figures.periods or 0,
            throttled_periods=figures.throttled_periods or 0,
            throttled_time=figures.throttled or 0,
        ),
    )
    return v1.Metrics(
        cpu=cpu,
        memory=memory,
        pids=v1.PidsStat(current=figures.tasks or 0, limit=figures.task_limit or 0),
        memory_oom_control=v1.MemoryOomControl(oom_kill=figures.oom_kills or 0),
    )


def _v2(figures: Figures) -> v2.Metrics:
    cpu = v2.CPUStat(
        usage_usec=(figures.cpu or 0) // _MICRO,
        user_usec=(figures.cpu_user or 0) // _MICRO,
        system_usec=(figures.cpu_system or 0) // _MICRO,
        nr_periods=figures.periods or 0,
        nr_throttled=figures.throttled_periods or 0,
        throttled_usec=(figures.throttled or 0) // _MICRO,
    )
    memory = v2.MemoryStat(
        anon=figures.anonymous or 0,
        file=figures.cache or 0,
        file_mapped=figures.mapped_file or 0,
        inactive_file=figures.inactive_file or 0,
        kernel_stack=figures.kernel or 0,
        pgfault=figures.page_faults or 0,
        pgmajfault=figures.major_page_faults or 0,
        usage=figures.memory or 0,
        usage_limit=figures.memory_limit or _NO_LIMIT,
        swap_usage=figures.swap or 0,
        swap_limit=_NO_LIMIT if figures.swap_limit is None else figures.swap_limit,
        max_usage=figures.memory_most or 0,
    )
    return v2.Metrics(
        cpu=cpu,
        memory=memory,
        pids=v2.PidsStat(current=figures.tasks or 0, limit=figures.task_limit or 0),
        memory_events=v2.MemoryEvents(max=figures.limit_hits or 0, oom_kill=figures.oom_kills or 0),
    )
