import pytest
from google.protobuf.any_pb2 import Any

from crishim._proto import cgroups_v1_pb2 as v1
from crishim._proto import cgroups_v2_pb2 as v2
from crishim._proto import shim_task_pb2 as task_pb
from crishim._proto import ttrpc_pb2
from crishim.model.stats import CgroupUsage, DeviceIo, PsiData, PsiStats
from crishim.shimv2.wire.metrics import decode_metrics
from tests.shimv2.golden import answers


def test_version_1() -> None:
    """Times are nanoseconds; what is unlimited has no limit; swap is what memory and swap together are more."""
    told = v1.Metrics()
    told.cpu.usage.total, told.cpu.usage.user, told.cpu.usage.kernel = 90, 60, 30
    told.cpu.throttling.throttled_time = 5
    told.memory.usage.usage, told.memory.usage.limit = 1000, 4000
    told.memory.swap.usage, told.memory.swap.limit = 1200, 6000
    told.memory.total_inactive_file, told.memory.total_rss = 300, 500
    told.pids.current = 4
    told.memory_oom_control.oom_kill = 2
    told.blkio.io_serviced_recursive.add(op="Read", major=8, minor=1, value=3)
    told.blkio.io_service_bytes_recursive.add(op="write", major=8, minor=1, value=4096)
    told.blkio.io_service_bytes_recursive.add(op="Total", major=8, minor=1, value=9999)
    made = decode_metrics(Any(type_url="io.containerd.cgroups.v1.Metrics", value=told.SerializeToString()))
    assert (90, 60, 30, 5) == (made.cpu, made.cpu_user, made.cpu_system, made.throttled)
    assert (1000, 4000, 200, 2000, 700) == (made.memory, made.memory_limit, made.swap, made.swap_limit, made.working_set)
    assert (500, 4, 2) == (made.anonymous, made.tasks, made.oom_kills)
    assert (DeviceIo("8:1", reads=3, written_bytes=4096),) == made.io
    told.memory.usage.limit = 2**63 - 4096
    made = decode_metrics(Any(type_url="io.containerd.cgroups.v1.Metrics", value=told.SerializeToString()))
    assert (None, None) == (made.memory_limit, made.swap_limit)


def test_version_2() -> None:
    """Times are microseconds there and nanoseconds here; some and full pressure are not mixed up."""
    told = v2.Metrics()
    told.cpu.usage_usec = 7
    told.memory.usage, told.memory.usage_limit, told.memory.anon = 10, 2**64 - 1, 6
    told.memory.psi.some.avg10, told.memory.psi.full.avg10, told.memory.psi.full.total = 1.5, 0.5, 8
    told.memory_events.oom_kill = 1
    told.pids.current, told.pids.limit = 2, 100
    told.io.usage.add(major=259, minor=0, rbytes=1, wbytes=2, rios=3, wios=4)
    made = decode_metrics(Any(type_url="type.googleapis.com/io.containerd.cgroups.v2.Metrics", value=told.SerializeToString()))
    assert (7000, 10, None, 6, 1, 2, 100) == (
        made.cpu,
        made.memory,
        made.memory_limit,
        made.anonymous,
        made.oom_kills,
        made.tasks,
        made.task_limit,
    )
    assert PsiStats(full=PsiData(total=8000, avg10=0.5), some=PsiData(avg10=1.5)) == made.memory_psi
    assert None is made.cpu_psi
    assert (DeviceIo("259:0", 3, 4, 1, 2),) == made.io


@pytest.mark.parametrize(
    "stats", [Any(type_url="mine", value=b"x"), Any(type_url="io.containerd.cgroups.v2.Metrics", value=b"\xff")]
)
def test_what_cannot_be_read(stats: Any) -> None:
    """Metrics of a kind that nobody knows, or that cannot be read, are no figures."""
    assert CgroupUsage() == decode_metrics(stats)


@pytest.mark.parametrize("name", ["containerd-1.6.jsonl", "containerd-2.4.jsonl"])
def test_recorded_figures(name: str) -> None:
    """What containerd's own shims answered has memory and time."""
    for data in answers(name, "Stats"):
        stats = task_pb.StatsResponse.FromString(ttrpc_pb2.Response.FromString(data).payload).stats
        made = decode_metrics(stats)
        assert (made.cpu or 0) > 0
        assert (made.memory or 0) > 0
