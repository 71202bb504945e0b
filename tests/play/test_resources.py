from fractions import Fraction
from typing import Any

import pytest

from crishim.errors import InvalidArgument
from crishim.model.resources import HugepageLimit
from crishim.play.container_loop import BackOff
from crishim.play.resources import (
    Demand,
    QosClass,
    container_resources,
    demand,
    limits,
    oom_score_adj,
    pod_demand,
    qos_class,
    quantity,
)

GIB = 2**30


def demand_of(requests: dict[str, Any] | None = None, limits_: dict[str, Any] | None = None) -> Demand:
    return demand(requests or {}, limits_ or {}, "resources")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500m", Fraction(1, 2)),
        ("1.5", Fraction(3, 2)),
        ("64Mi", Fraction(64 * 2**20)),
        ("1e3", Fraction(1000)),
        ("2k", Fraction(2000)),
        (".5", Fraction(1, 2)),
        ("100n", Fraction(1, 10**7)),
    ],
)
def test_quantities_are_exact(text: str, expected: Fraction) -> None:
    """A quantity is a decimal number with a suffix of ten, of two, or an exponent."""
    assert expected == quantity(text, "field")


@pytest.mark.parametrize("text", ["", "m", "1mi", "1 Gi", "-1", "1e3k"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidArgument):
        quantity(text, "field")


def test_classes_go_by_requests_and_limits() -> None:
    """No requests are best effort; limits of cpu and memory everywhere, and no other request, are guaranteed."""
    full = demand_of(limits_={"cpu": "1", "memory": "1Gi"})
    part = demand_of(requests={"cpu": "1"})
    assert QosClass.BEST_EFFORT is qos_class([Demand(), Demand()])
    assert QosClass.GUARANTEED is qos_class([full, full])
    assert QosClass.BURSTABLE is qos_class([full, Demand()])
    assert QosClass.BURSTABLE is qos_class([part])
    assert QosClass.BURSTABLE is qos_class([demand_of({"cpu": "1"}, {"cpu": "2", "memory": "1Gi"})])


def test_shares_and_quotas_have_bounds() -> None:
    """Shares are 1024 a CPU, from 2 to 262144; a quota is a part of 100 ms, and at least 1 ms."""
    assert (2, 0) == (limits(Demand()).cpu_shares, limits(Demand()).cpu_quota)
    assert (262144, 0) == (limits(demand_of({"cpu": "1000"})).cpu_shares, 0)
    small = limits(demand_of(limits_={"cpu": "1m"}))
    assert (2, 1000) == (small.cpu_shares, small.cpu_quota)
    assert 150_000 == limits(demand_of(limits_={"cpu": "1.5"})).cpu_quota


def test_the_kernel_kills_the_greedy_first() -> None:
    """The score is 1000 for best effort, -997 for guaranteed, and between 3 and 999 by the share of the node's memory."""
    half = demand_of({"memory": "4Gi"})
    assert 1000 == oom_score_adj(half, QosClass.BEST_EFFORT, 8 * GIB)
    assert -997 == oom_score_adj(half, QosClass.GUARANTEED, 8 * GIB)
    assert 500 == oom_score_adj(half, QosClass.BURSTABLE, 8 * GIB)
    assert 999 == oom_score_adj(Demand(), QosClass.BURSTABLE, 8 * GIB)
    assert 3 == oom_score_adj(demand_of({"memory": "8Gi"}), QosClass.BURSTABLE, 8 * GIB)
    beside = container_resources(Demand(), QosClass.BURSTABLE, capacity=8 * GIB, page_sizes=(), sidecar_of=[half])
    assert 500 == beside.oom_score_adj


def test_huge_pages_are_named_as_the_kernel_does() -> None:
    """Each size of the node has a limit, 0 where the container asks for none."""
    resources = container_resources(
        demand_of(limits_={"hugepages-2Mi": "4Mi"}), QosClass.BURSTABLE, capacity=GIB, page_sizes=("2MB", "1GB")
    )
    assert (HugepageLimit("2MB", 4 * 2**20), HugepageLimit("1GB", 0)) == resources.hugepage_limits


def test_a_pods_sums_hold_its_hungriest_moment() -> None:
    """Containers and sidecars count together, or an init container with the sidecars before it, whichever is more."""
    one, three = demand_of({"cpu": "1"}), demand_of({"cpu": "3"})
    assert 2 == pod_demand([one, one], []).requests["cpu"]
    assert 3 == pod_demand([one, one], [(three, False)]).requests["cpu"]
    assert 4 == pod_demand([one], [(one, True), (three, False)]).requests["cpu"]
    assert 3 == pod_demand([one], [(three, False), (one, True)]).requests["cpu"]


def test_pauses_double_and_are_forgotten() -> None:
    """The first restart has no delay, then 10 s to 300 s; ten minutes without an exit reset it."""
    backoff = BackOff()
    now, pauses = 0.0, []
    for _ in range(8):
        pauses.append(backoff.pause(now))
        now += pauses[-1]
    assert [0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0] == pauses
    assert 0.0 == backoff.pause(now + 601)
