"""The files of both versions, as kernels write them."""

from crishim.model.stats import CgroupUsage, ContainerUsage, DeviceIo, PsiData, PsiStats, SandboxUsage
from crishim.oci.usage import container_usage, parse_cgroup_v1, parse_cgroup_v2, sandbox_usage, sum_usage

V2 = {
    "cpu.stat": "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\n"
    "nr_periods 7\nnr_throttled 3\nthrottled_usec 1500000\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.50 avg300=0.10 total=400\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
    "memory.current": "1000000\n",
    "memory.peak": "2000000\n",
    "memory.max": "4000000\n",
    "memory.stat": "anon 600000\nfile 300000\nkernel 50000\nfile_mapped 20000\ninactive_file 100000\npgfault 9\npgmajfault 2\n",
    "memory.events": "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\n",
    "memory.swap.current": "500\n",
    "memory.swap.max": "max\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=8\n",
    "io.pressure": "",
    "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:0 \n",
    "pids.current": "12\n",
    "pids.max": "max\n",
    "cgroup.procs": "10\n11\n",
}
V1 = {
    "cpuacct/cpuacct.usage": "5000000000\n",
    "cpuacct/cpuacct.usage_user": "3000000000\n",
    "cpuacct/cpuacct.usage_sys": "2000000000\n",
    "cpu/cpu.stat": "nr_periods 7\nnr_throttled 3\nthrottled_time 1500000000\n",
    "memory/memory.usage_in_bytes": "1000000\n",
    "memory/memory.max_usage_in_bytes": "2000000\n",
    "memory/memory.limit_in_bytes": "4000000\n",
    "memory/memory.failcnt": "4\n",
    "memory/memory.stat": "cache 1\nrss 1\ntotal_cache 300000\ntotal_rss 600000\ntotal_mapped_file 20000\n"
    "total_inactive_file 100000\ntotal_pgfault 9\ntotal_pgmajfault 2\ntotal_swap 77\n",
    "memory/memory.memsw.usage_in_bytes": "1000500\n",
    "memory/memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.kmem.usage_in_bytes": "50000\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "memory/cgroup.procs": "10\n11\n",
    "blkio/blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\nTotal 3\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 8192\n8:0 Total 12288\nTotal 12288\n",
    "pids/pids.current": "12\n",
    "pids/pids.max": "max\n",
}
SAME = CgroupUsage(
    cpu=5_000_000_000,
    cpu_user=3_000_000_000,
    cpu_system=2_000_000_000,
    periods=7,
    throttled_periods=3,
    throttled=1_500_000_000,
    memory=1_000_000,
    inactive_file=100_000,
    anonymous=600_000,
    cache=300_000,
    mapped_file=20_000,
    kernel=50_000,
    memory_most=2_000_000,
    limit_hits=4,
    page_faults=9,
    major_page_faults=2,
    oom_kills=1,
    swap=500,
    tasks=12,
    processes=2,
    memory_limit=4_000_000,
    io=(DeviceIo("8:0", reads=1, writes=2, read_bytes=4096, written_bytes=8192),),
)


def of_v2(**changes: str) -> CgroupUsage:
    files = {**V2, **{name.replace("__", "."): text for name, text in changes.items()}}
    return parse_cgroup_v2(lambda name: files.get(name, ""))


def test_both_versions_say_the_same() -> None:
    """The same state of a container gives the same usage from either version's files (rpc.md 8), but for pressure."""
    v2 = of_v2(cpu__pressure="", memory__pressure="")
    assert SAME == v2
    assert SAME == parse_cgroup_v1(lambda name: V1.get(name, ""))


def test_pressure_is_in_nanoseconds() -> None:
    """A pressure file's totals are microseconds there and nanoseconds here; a missing line is zero, a missing file nothing."""
    usage = of_v2()
    assert PsiStats(some=PsiData(total=400_000, avg10=1.5, avg60=0.5, avg300=0.1), full=PsiData(total=3000)) == usage.cpu_psi
    assert PsiStats(some=PsiData(total=8000)) == usage.memory_psi
    assert None is usage.io_psi


def test_the_working_set_is_the_kubelet_s() -> None:
    """The working set is usage minus inactive file cache, never below zero; available is the limit minus the working set."""
    measured = container_usage(SAME, 5)
    assert measured.memory is not None
    assert (5, 900_000, 3_100_000) == (
        measured.memory.timestamp,
        measured.memory.working_set_bytes,
        measured.memory.available_bytes,
    )
    assert 0 == CgroupUsage(memory=5, inactive_file=9).working_set
    unlimited = container_usage(CgroupUsage(memory=5), 1).memory
    assert unlimited is not None
    assert None is unlimited.available_bytes


def test_usage_carries_every_part() -> None:
    """CPU, swap, tasks and the further metrics have values, each metric once per its labels."""
    measured = container_usage(SAME, 5)
    assert measured.cpu is not None
    assert measured.swap is not None
    assert measured.process is not None
    assert (5_000_000_000, 500, 12) == (
        measured.cpu.usage_core_nano_seconds,
        measured.swap.swap_usage_bytes,
        measured.process.process_count,
    )
    samples = {(sample.name, *sample.labels): sample.value for sample in measured.metrics}
    assert len(measured.metrics) == len(samples)
    assert 1 == samples["container_cpu_cfs_throttled_seconds_total",]
    assert (12, 0, 2) == (
        samples["container_threads",],
        samples["container_threads_max",],
        samples["container_processes",],
    )
    assert 8192 == samples["container_blkio_device_usage_total", "8:0", "Write"]
    assert 2 == samples["container_fs_writes_total", "8:0"]


def test_a_pods_usage_is_that_of_a_container_without_what_pods_lack() -> None:
    """A pod has the CPU time, memory, processes and pressure of its cgroup, with the same time, and no swap or metrics."""
    measured, pod = container_usage(of_v2(), 5), sandbox_usage(of_v2(), 5)
    assert (measured.cpu, measured.memory, measured.process, measured.io) == (pod.cpu, pod.memory, pod.process, pod.io)
    assert (None, ()) == (pod.network, pod.metrics)
    assert SandboxUsage() == sandbox_usage(CgroupUsage(), 5)


def test_nothing_is_not_zero() -> None:
    """Without a single file nothing is measured: no part says zero."""
    assert CgroupUsage() == parse_cgroup_v2(lambda _: "")
    assert CgroupUsage() == parse_cgroup_v1(lambda _: "")
    assert ContainerUsage() == container_usage(CgroupUsage(), 5)


def test_old_kernels_lack_some_files() -> None:
    """Without `kernel` in memory.stat its parts are summed; without swap accounting v1's memory.stat has the swap."""
    assert 15 == of_v2(memory__stat="kernel_stack 10\nslab 5\n").kernel
    without = {name: text for name, text in V1.items() if "memsw" not in name}
    assert 77 == parse_cgroup_v1(lambda name: without.get(name, "")).swap


def test_a_pod_is_the_sum() -> None:
    """Of several containers what can be added is added; limits and pressures are not."""
    both = sum_usage([SAME, SAME, CgroupUsage(tasks=1)])
    assert (10_000_000_000, 1_800_000, 25) == (both.cpu, both.working_set, both.tasks)
    assert (None, ()) == (both.memory_limit, both.io)
    assert CgroupUsage() == sum_usage([])
