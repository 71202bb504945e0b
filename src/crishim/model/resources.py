"""Limits: CRI's LinuxContainerResources."""

import attrs

from crishim.model.values import EMPTY, FrozenDict, frozen

__all__ = ["HugepageLimit", "Resources"]


@attrs.frozen
class HugepageLimit:
    """The limit of one size of huge pages."""

    page_size: str
    """The size as the kernel's file names have it."""
    limit: int = 0
    """Bytes."""


@attrs.frozen(kw_only=True)
class Resources:
    """Limits of a container or pod. Zero and empty mean "not set"; in an update, "unchanged"."""

    cpu_period: int = 0
    """Microseconds."""
    cpu_quota: int = 0
    """Microseconds of CPU time in each period; -1 is no limit."""
    cpu_shares: int = 0
    """The relative weight, 2 to 262144, as in cgroup v1."""
    memory_limit_in_bytes: int = 0
    """Bytes."""
    oom_score_adj: int = 0
    """-1000 to 1000; a value even when zero."""
    cpuset_cpus: str = ""
    """A list of CPUs, as the kernel writes it."""
    cpuset_mems: str = ""
    """A list of NUMA nodes, as the kernel writes it."""
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    """One limit for each page size."""
    unified: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Contents of cgroup v2 files, by file name."""
    memory_swap_limit_in_bytes: int = 0
    """Bytes of memory and swap together, as in cgroup v1."""

    def updated(self, change: "Resources") -> "Resources":
        """These limits with every non-zero value of `change`; `unified` and hugepages are merged by name.

        A swap limit equal to the memory limit (no swap) follows it. `oom_score_adj` stays: it cannot be changed for a running
        process.
        """
        changed = {
            field.name: getattr(change, field.name)
            for field in attrs.fields(Resources)
            if field.name not in {"oom_score_adj", "unified", "hugepage_limits"} and getattr(change, field.name)
        }
        if self.memory_swap_limit_in_bytes == self.memory_limit_in_bytes > 0 and "memory_limit_in_bytes" in changed:
            changed.setdefault("memory_swap_limit_in_bytes", change.memory_limit_in_bytes)
        pages = {limit.page_size: limit for limit in (*self.hugepage_limits, *change.hugepage_limits)}
        return attrs.evolve(
            self,
            **changed,
            unified=FrozenDict({**self.unified, **change.unified}),
            hugepage_limits=tuple(pages.values()),
        )
