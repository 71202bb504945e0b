"""Resource limits."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert.common import at_least, between, decode_map, not_empty
from crishim.model.resources import HugepageLimit, Resources


def decode_resources(message: pb.LinuxContainerResources, path: str) -> Resources:
    """Limits of a container or pod. -1 is "no limit" where the kernel has that; other negative numbers are refused."""
    return Resources(
        cpu_period=at_least(message.cpu_period, 0, f"{path}.cpu_period"),
        cpu_quota=at_least(message.cpu_quota, -1, f"{path}.cpu_quota"),
        cpu_shares=at_least(message.cpu_shares, 0, f"{path}.cpu_shares"),
        memory_limit_in_bytes=at_least(message.memory_limit_in_bytes, -1, f"{path}.memory_limit_in_bytes"),
        oom_score_adj=between(message.oom_score_adj, -1000, 1000, f"{path}.oom_score_adj"),
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        hugepage_limits=tuple(
            HugepageLimit(
                page_size=not_empty(limit.page_size, f"{path}.hugepage_limits[{place}].page_size"),
                limit=limit.limit,
            )
            for place, limit in enumerate(message.hugepage_limits)
        ),
        unified=decode_map(message.unified),
        memory_swap_limit_in_bytes=at_least(message.memory_swap_limit_in_bytes, -1, f"{path}.memory_swap_limit_in_bytes"),
    )


def encode_resources(resources: Resources) -> pb.LinuxContainerResources:
    """Limits of a container or pod."""
    return pb.LinuxContainerResources(
        cpu_period=resources.cpu_period,
        cpu_quota=resources.cpu_quota,
        cpu_shares=resources.cpu_shares,
        memory_limit_in_bytes=resources.memory_limit_in_bytes,
        oom_score_adj=resources.oom_score_adj,
        cpuset_cpus=resources.cpuset_cpus,
        cpuset_mems=resources.cpuset_mems,
        hugepage_limits=[pb.HugepageLimit(page_size=limit.page_size, limit=limit.limit) for limit in resources.hugepage_limits],
        unified=resources.unified,
        memory_swap_limit_in_bytes=resources.memory_swap_limit_in_bytes,
    )
