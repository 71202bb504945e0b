"""Checks of the limits that a backend supports, as a container sees them in its cgroup and its process."""

from collections.abc import Mapping
from typing import Final

from crishim.interfaces.capabilities import SupportsExec, SupportsUpdate
from crishim.model.features import Feature
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.values import EMPTY, FrozenDict
from crishim.testing.conformance.candidate import World, equal
from crishim.testing.conformance.examine import Check
from crishim.testing.conformance.execs import output_of_exec
from crishim.testing.conformance.kubelet import Kubelet
from crishim.testing.conformance.programs import Fact, LeftOut, needed

_ENOUGH: Final = 64 << 20
"""Bytes: enough for a runtime to start a container, and less than `Programs.exhausts` uses."""

_SCORE: Final = 900
_PAGE: Final = 2 << 20


async def check_cpu_quota_is_set(world: World) -> None:
    """cpu_quota and cpu_period: the quota and the period of the container's cgroup, for the kernel's CFS scheduler."""
    argv = world.shows(Fact.CPU_QUOTA)
    async with Kubelet.over(world) as kubelet:
        equal("50000 200000", await kubelet.output_alone(argv, cpu_quota=50_000, cpu_period=200_000))


async def check_cpu_quota_is_updated(world: World) -> None:
    """update_container: the new quota is that of the container's cgroup."""
    argv = world.shows(Fact.CPU_QUOTA)
    if not world.claims(SupportsExec):
        raise LeftOut("limits of a running container are seen by an exec, which the backend does not support")
    async with Kubelet.over(world) as kubelet:
        config = kubelet.container(world.programs.sleeps(), cpu_quota=50_000, cpu_period=100_000)
        container_id = await kubelet.run(await kubelet.pod(), config)
        change = Resources(cpu_quota=80_000, cpu_period=100_000)
        await kubelet.services.containers.update_resources(container_id, change, EMPTY)
        result = await kubelet.services.streams.exec_sync(container_id, argv, 30)
        equal("80000 100000", result.stdout.decode().strip())


async def check_cpus_are_limited(world: World) -> None:
    """cpuset_cpus: constrains the allowed set of logical CPUs."""
    argv = world.shows(Fact.CPUS)
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        allowed = await kubelet.output(sandbox_id, kubelet.container(argv))
        last = allowed.replace(",", "-").split("-")[-1]
        if last == allowed:
            raise LeftOut(f"the node has no other CPU than {last}")
        equal(last, await kubelet.output(sandbox_id, kubelet.container(argv, cpuset_cpus=last)))


async def check_exhausted_memory_is_the_reason(world: World) -> None:
    """reason: must be set to "OOMKilled" for containers terminated by cgroup-based Out-of-Memory killer (`Exit.oom`); the exit
    code is 137.
    """
    argv = needed(world.programs.exhausts(), "use much memory")
    async with Kubelet.over(world) as kubelet:
        config = kubelet.container(argv, memory_limit_in_bytes=_ENOUGH, memory_swap_limit_in_bytes=_ENOUGH)
        status = await kubelet.ended(await kubelet.run(await kubelet.pod(), config))
        equal((137, "OOMKilled"), (status.exit_code, status.reason))


async def check_hugepages_are_limited(world: World) -> None:
    """hugepage_limits: limit the HugeTLB usage of the container per page size."""
    argv = world.shows(Fact.HUGEPAGE_LIMIT)
    if "2MB" not in world.candidate.node.page_sizes:
        raise LeftOut("no cgroup of the node limits huge pages of 2 MB")
    async with Kubelet.over(world) as kubelet:
        limits = (HugepageLimit("2MB", 3 * _PAGE), HugepageLimit("1GB"))
        equal(str(3 * _PAGE), await kubelet.output_alone(argv, hugepage_limits=limits))


async def check_unified_is_written(world: World) -> None:
    """unified: each key/value in the map refers to the cgroup v2, a file of the container's cgroup and its content."""
    argv = needed(world.programs.reads("/sys/fs/cgroup/pids.max"), "read a file")
    if not world.candidate.node.cgroup_v2:
        raise LeftOut("the node has cgroup v1, without the files of `unified`")
    async with Kubelet.over(world) as kubelet:
        equal("321", await kubelet.output_alone(argv, unified=FrozenDict({"pids.max": "321"})))


async def check_oom_score_is_set(world: World) -> None:
    """oom_score_adj: OOMScoreAdj adjusts the oom-killer score of the container's process."""
    argv = world.shows(Fact.OOM_SCORE)
    async with Kubelet.over(world) as kubelet:
        equal(str(_SCORE), await kubelet.output_alone(argv, oom_score_adj=_SCORE))


async def check_exec_has_the_oom_score(world: World) -> None:
    """exec: the process has the container's oom_score_adj."""
    argv, limits = world.shows(Fact.OOM_SCORE), Resources(oom_score_adj=_SCORE)
    spec = await world.run(await world.sandbox(), world.programs.sleeps(), resources=limits)
    equal(str(_SCORE), await output_of_exec(world, spec, argv))


LIMIT_FEATURES: Final[Mapping[Check, Feature]] = {
    check_cpu_quota_is_set: Feature.CPU_QUOTA,
    check_cpu_quota_is_updated: Feature.CPU_QUOTA,
    check_cpus_are_limited: Feature.CPUSET,
    check_exhausted_memory_is_the_reason: Feature.MEMORY_LIMIT,
    check_hugepages_are_limited: Feature.HUGEPAGES,
    check_unified_is_written: Feature.UNIFIED,
}
"""The feature of each check that is about one."""

LIMIT_NEEDS: Final[Mapping[Check, type]] = {
    check_cpu_quota_is_updated: SupportsUpdate,
    check_exec_has_the_oom_score: SupportsExec,
}
"""The capability of each check that is about one."""
