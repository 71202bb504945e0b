import os

from crishim.backends.process.usage import usage
from crishim.linux.processes import Identity, Process
from crishim.model.stats import CpuUsage, MemoryUsage, ProcessUsage

SECOND = os.sysconf("SC_CLK_TCK")


def process(pid: int, *, ended: bool = False) -> Process:
    return Process(
        identity=Identity(pid, 1),
        parent=10,
        session=10,
        ended=ended,
        cpu=SECOND,
        minor_faults=3,
        major_faults=1,
        rss=4096,
    )


def test_usage_of_a_family() -> None:
    """CPU time and faults count for all, memory and number for running processes; the working set is resident memory."""
    assert usage([process(10), process(11), process(12, ended=True)], 7) == (
        CpuUsage(timestamp=7, usage_core_nano_seconds=3_000_000_000),
        MemoryUsage(timestamp=7, working_set_bytes=8192, usage_bytes=8192, rss_bytes=8192, page_faults=12, major_page_faults=3),
        ProcessUsage(timestamp=7, process_count=2),
    )
