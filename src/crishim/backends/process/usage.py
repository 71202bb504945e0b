"""What a family of processes uses, in CRI's words."""

import os
from collections.abc import Collection
from typing import Final

from crishim.linux.processes import Process
from crishim.model.stats import CpuUsage, MemoryUsage, ProcessUsage

_NANOSECONDS_PER_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def usage(members: Collection[Process], timestamp: int) -> tuple[CpuUsage, MemoryUsage, ProcessUsage]:
    """What a family uses, at `timestamp` in nanoseconds.

    Memory is the resident size, shared pages counted for each process; there is no cache to tell apart, so the working set is
    the same. The CPU time of a process that has ended counts when its parent has waited for it, and is lost with the parent.
    """
    running = [member for member in members if not member.ended]
    rss = sum(member.rss for member in running)
    return (
        CpuUsage(timestamp=timestamp, usage_core_nano_seconds=sum(member.cpu for member in members) * _NANOSECONDS_PER_TICK),
        MemoryUsage(
            timestamp=timestamp,
            working_set_bytes=rss,
            usage_bytes=rss,
            rss_bytes=rss,
            page_faults=sum(member.minor_faults + member.major_faults for member in members),
            major_page_faults=sum(member.major_faults for member in members),
        ),
        ProcessUsage(timestamp=timestamp, process_count=len(running)),
    )
