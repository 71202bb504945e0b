import pytest

from crishim.cri import pb
from crishim.cri.convert.resources import decode_resources
from crishim.model.resources import HugepageLimit, Resources
from tests.cri.refusals import refused


def test_absent_resources_are_not_requested() -> None:
    """Empty limits are the default ones."""
    expected = Resources()
    assert expected == decode_resources(pb.LinuxContainerResources(), "linux")


def test_limits_are_read() -> None:
    """Numbers, texts, pages and files are read, -1 included where it means no limit."""
    message = pb.LinuxContainerResources(
        cpu_quota=-1,
        memory_swap_limit_in_bytes=-1,
        oom_score_adj=-998,
        hugepage_limits=[pb.HugepageLimit(page_size="2MB")],
        unified={"memory.high": "1"},
    )
    expected = Resources(
        cpu_quota=-1,
        memory_swap_limit_in_bytes=-1,
        oom_score_adj=-998,
        hugepage_limits=(HugepageLimit("2MB"),),
        unified={"memory.high": "1"},
    )
    assert expected == decode_resources(message, "linux")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.LinuxContainerResources(cpu_period=-1), "cpu_period"),
        (pb.LinuxContainerResources(cpu_quota=-2), "cpu_quota"),
        (pb.LinuxContainerResources(cpu_shares=-1), "cpu_shares"),
        (pb.LinuxContainerResources(memory_limit_in_bytes=-2), "memory_limit_in_bytes"),
        (pb.LinuxContainerResources(memory_swap_limit_in_bytes=-2), "memory_swap_limit_in_bytes"),
        (pb.LinuxContainerResources(oom_score_adj=1001), "oom_score_adj"),
        (pb.LinuxContainerResources(oom_score_adj=-1001), "oom_score_adj"),
        (pb.LinuxContainerResources(hugepage_limits=[pb.HugepageLimit(limit=1)]), "hugepage_limits[0].page_size"),
    ],
)
def test_limits_out_of_range_are_refused(message: pb.LinuxContainerResources, field: str) -> None:
    """A number that the kernel has no meaning for is refused by its field."""
    with refused(f"config.linux.resources.{field}"):
        decode_resources(message, "config.linux.resources")
