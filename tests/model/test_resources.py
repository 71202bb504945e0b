"""Limits."""

import pytest

from crishim.model.resources import Resources


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (Resources(), Resources(memory_limit_in_bytes=5), Resources(memory_limit_in_bytes=5)),
        (
            Resources(memory_limit_in_bytes=5, memory_swap_limit_in_bytes=5),
            Resources(memory_limit_in_bytes=3),
            Resources(memory_limit_in_bytes=3, memory_swap_limit_in_bytes=3),
        ),
        (
            Resources(memory_limit_in_bytes=5, memory_swap_limit_in_bytes=9),
            Resources(memory_limit_in_bytes=7),
            Resources(memory_limit_in_bytes=7, memory_swap_limit_in_bytes=9),
        ),
        (
            Resources(memory_limit_in_bytes=5, memory_swap_limit_in_bytes=5),
            Resources(memory_limit_in_bytes=7, memory_swap_limit_in_bytes=8),
            Resources(memory_limit_in_bytes=7, memory_swap_limit_in_bytes=8),
        ),
        (
            Resources(memory_limit_in_bytes=5, memory_swap_limit_in_bytes=5, oom_score_adj=3),
            Resources(cpu_shares=2),
            Resources(memory_limit_in_bytes=5, memory_swap_limit_in_bytes=5, cpu_shares=2, oom_score_adj=3),
        ),
    ],
)
def test_a_change_of_limits(before: Resources, change: Resources, after: Resources) -> None:
    """What is not named stays, and a swap limit that allowed none on top of the memory goes on to allow none."""
    assert after == before.updated(change)
