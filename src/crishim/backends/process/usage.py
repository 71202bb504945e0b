"""The usage of a family of processes."""

import os
from collections.abc import Collection
from typing import Final

from crishim.linux.processes import Process
from crishim.model.stats import CpuUsage, MemoryUsage, ProcessUsage

_NANOSECONDS_PER_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def usage(members: Collection[Process], timestamp: int) -> tuple[CpuUsage, MemoryUsage, ProcessUsage]:
    """The usage of a family at `timestamp`, in nanoseconds since the epoch.

    Memory is the resident size, with shared pages counted for each process; the page cache is not known, so the working set is
    the same. The CPU time of an exited process counts when its parent has reaped it, and is lost with the parent.
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
