import pytest
from google.protobuf.any_pb2 import Any

from crishim._proto import cgroups_v1_pb2 as v1
from crishim._proto import cgroups_v2_pb2 as v2
from crishim._proto import shim_task_pb2 as task_pb
from crishim._proto import ttrpc_pb2
from crishim.model.stats import CgroupUsage, DeviceIo, PsiData, PsiStats
from crishim.shimv2.wire.metrics import decode_metrics, encode_metrics
from tests.shimv2.golden import answers


def test_version_1() -> None:
    """Times are nanoseconds; unlimited values have no limit; swap is the difference of memsw and memory."""
    message = v1.Metrics()
    message.cpu.usage.total, message.cpu.usage.user, message.cpu.usage.kernel = 90, 60, 30
    message.cpu.throttling.throttled_time = 5
    message.memory.usage.usage, message.memory.usage.limit = 1000, 4000
    message.memory.swap.usage, message.memory.swap.limit = 1200, 6000
    message.memory.total_inactive_file, message.memory.total_rss = 300, 500
    message.pids.current = 4
    message.memory_oom_control.oom_kill = 2
    message.blkio.io_serviced_recursive.add(op="Read", major=8, minor=1, value=3)
    message.blkio.io_service_bytes_recursive.add(op="write", major=8, minor=1, value=4096)
    message.blkio.io_service_bytes_recursive.add(op="Total", major=8, minor=1, value=9999)
    usage = decode_metrics(Any(type_url="io.containerd.cgroups.v1.Metrics", value=message.SerializeToString()))
    assert (90, 60, 30, 5) == (usage.cpu, usage.cpu_user, usage.cpu_system, usage.throttled)
    assert (1000, 4000, 200, 2000, 700) == (usage.memory, usage.memory_limit, usage.swap, usage.swap_limit, usage.working_set)
    assert (500, 4, 2) == (usage.anonymous, usage.tasks, usage.oom_kills)
    assert (DeviceIo("8:1", reads=3, written_bytes=4096),) == usage.io
    message.memory.usage.limit = 2**63 - 4096
    usage = decode_metrics(Any(type_url="io.containerd.cgroups.v1.Metrics", value=message.SerializeToString()))
    assert (None, None) == (usage.memory_limit, usage.swap_limit)


def test_version_2() -> None:
    """Times are microseconds there and nanoseconds here; some and full pressure are not mixed up."""
    message = v2.Metrics()
    message.cpu.usage_usec = 7
    message.memory.usage, message.memory.usage_limit, message.memory.anon = 10, 2**64 - 1, 6
    message.memory.psi.some.avg10, message.memory.psi.full.avg10, message.memory.psi.full.total = 1.5, 0.5, 8
    message.memory_events.oom_kill = 1
    message.pids.current, message.pids.limit = 2, 100
    message.io.usage.add(major=259, minor=0, rbytes=1, wbytes=2, rios=3, wios=4)
    usage = decode_metrics(
        Any(type_url="type.googleapis.com/io.containerd.cgroups.v2.Metrics", value=message.SerializeToString())
    )
    assert (7000, 10, None, 6, 1, 2, 100) == (
        usage.cpu,
        usage.memory,
        usage.memory_limit,
        usage.anonymous,
        usage.oom_kills,
        usage.tasks,
        usage.task_limit,
    )
    assert PsiStats(full=PsiData(total=8000, avg10=0.5), some=PsiData(avg10=1.5)) == usage.memory_psi
    assert None is usage.cpu_psi
    assert (DeviceIo("259:0", 3, 4, 1, 2),) == usage.io


@pytest.mark.parametrize(
    "stats", [Any(type_url="mine", value=b"x"), Any(type_url="io.containerd.cgroups.v2.Metrics", value=b"\xff")]
)
def test_what_cannot_be_read(stats: Any) -> None:
    """Metrics of an unknown type, or that cannot be parsed, give no usage."""
    assert CgroupUsage() == decode_metrics(stats)


@pytest.mark.parametrize("name", ["containerd-1.6.jsonl", "containerd-2.4.jsonl"])
def test_recorded_metrics(name: str) -> None:
    """What containerd's own shims answered has memory and time."""
    for data in answers(name, "Stats"):
        stats = task_pb.StatsResponse.FromString(ttrpc_pb2.Response.FromString(data).payload).stats
        usage = decode_metrics(stats)
        assert (usage.cpu or 0) > 0
        assert (usage.memory or 0) > 0


@pytest.mark.parametrize("unified", [False, True])
def test_what_is_encoded(*, unified: bool) -> None:
    """What clients of a shim read is what was measured, and nothing that CRI-O or nerdctl read without a check is missing."""
    psi = PsiStats(full=PsiData(total=8000, avg10=0.5), some=PsiData(total=9000, avg300=1.5))
    io = (DeviceIo("259:0", 1, 2, 3, 4), DeviceIo("8:1", 3, 4, 512, 4096))
    usage = CgroupUsage(cpu=90000, memory=10, io=io, tasks=3, cpu_psi=psi, memory_psi=psi, io_psi=psi)
    packed = encode_metrics(usage, unified=unified)
    decoded = decode_metrics(packed)
    assert (90000, 10, io, 3) == (decoded.cpu, decoded.memory, decoded.io, decoded.tasks)
    assert ([psi] * 3 if unified else [None] * 3) == [decoded.cpu_psi, decoded.memory_psi, decoded.io_psi]
    nothing = encode_metrics(CgroupUsage(), unified=unified).value
    if unified:
        found = v2.Metrics.FromString(nothing)
        assert {"cpu", "memory", "pids", "memory_events", "io"} == {field.name for field, _ in found.ListFields()}
    else:
        metrics = v1.Metrics.FromString(nothing)
        assert {"cpu", "memory", "pids", "memory_oom_control", "blkio"} == {field.name for field, _ in metrics.ListFields()}
        assert {"usage", "throttling"} == {field.name for field, _ in metrics.cpu.ListFields()}
        assert {"usage", "swap", "kernel", "kernel_tcp"} == {field.name for field, _ in metrics.memory.ListFields()}
