"""Limits: CRI's LinuxContainerResources."""

import attrs

from crishim.model.values import EMPTY, FrozenDict, frozen

__all__ = ["HugepageLimit", "Resources"]


@attrs.frozen
class HugepageLimit:
    """`page_size` as the kernel's file names have it (`2MB`); `limit` in bytes."""

    page_size: str
    limit: int = 0


@attrs.frozen(kw_only=True)
class Resources:
    """Limits of a container or pod. Zero and empty mean "not set"; in an update, "unchanged".

    `cpu_period` and `cpu_quota` are microseconds (a quota of -1 is no limit); memory is bytes, and swap is memory and swap
    together, as in cgroup v1. `oom_score_adj` is a value even when zero. `unified` names cgroup v2 files.
    """

    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    memory_limit_in_bytes: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    unified: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    memory_swap_limit_in_bytes: int = 0

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
