"""Converts requests and limits to CRI's values: quantities, QoS class, shares, quota, memory, oom_score_adj (pure)."""

import enum
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Final

import attrs

from crishim.errors import InvalidArgument
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.values import FrozenDict

_SUFFIXES: Final[Mapping[str, Fraction]] = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12), "P": Fraction(10**15),
    "E": Fraction(10**18), "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40),
    "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip
_QUANTITY: Final = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:[eE]([+-]?\d{1,2})|([numkMGTPE]|[KMGTPE]i)?)")
_HUGEPAGES: Final = "hugepages-"

PERIOD: Final = 100_000
"""The CPU period in microseconds."""

_MIN_SHARES: Final = 2
_MAX_SHARES: Final = 262_144
_MIN_QUOTA: Final = 1000
_GUARANTEED_OOM: Final = -997
_BEST_EFFORT_OOM: Final = 1000


class QosClass(enum.Enum):
    """The QoS class of a pod; the value is the folder below /kubepods."""

    GUARANTEED = ""
    BURSTABLE = "burstable"
    BEST_EFFORT = "besteffort"


@attrs.frozen(kw_only=True)
class Demand:
    """The resources of a container, in exact numbers: CPUs, bytes. A missing request is the limit."""

    requests: FrozenDict[str, Fraction] = FrozenDict()
    limits: FrozenDict[str, Fraction] = FrozenDict()


def quantity(text: str, path: str) -> Fraction:
    """The number of a quantity such as `500m`, `1.5`, `64Mi` or `1e3`, 0 or more."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidArgument(path, f"{text!r} is not a quantity")
    number, exponent, suffix = match.groups()
    value = Fraction(number) * (Fraction(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""])
    if value < 0:
        raise InvalidArgument(path, "must not be negative")
    return value


def demand(requests: Mapping[str, str], limits: Mapping[str, str], path: str) -> Demand:
    """A container's `resources`. Raises `InvalidArgument` for a resource that is neither cpu, memory, hugepages nor disk."""
    known = {}
    for part, given in (("requests", requests), ("limits", limits)):
        for name in given:
            if name not in {"cpu", "memory", "ephemeral-storage"} and not name.startswith(_HUGEPAGES):
                raise InvalidArgument(f"{path}.{part}.{name}", "is not supported by this kubelet")
        known[part] = {name: quantity(text, f"{path}.{part}.{name}") for name, text in given.items()}
    return Demand(requests=FrozenDict({**known["limits"], **known["requests"]}), limits=FrozenDict(known["limits"]))


def pod_demand(containers: Iterable[Demand], inits: Iterable[tuple[Demand, bool]]) -> Demand:
    """A pod's sums: containers and sidecars together, or the demand of an init container with the sidecars before it.

    `inits` are in order, each with whether it is a sidecar.
    """
    mains, first = list(containers), list(inits)
    parts = {}
    for part in ("requests", "limits"):
        beside: dict[str, Fraction] = {}
        most: dict[str, Fraction] = {}
        for one, sidecar in first:
            needed = _sum(beside, getattr(one, part))
            most = {name: max(most.get(name, Fraction(0)), value) for name, value in {**most, **needed}.items()}
            beside = needed if sidecar else beside
        steady = beside
        for main in mains:
            steady = _sum(steady, getattr(main, part))
        parts[part] = {name: max(steady.get(name, Fraction(0)), most.get(name, Fraction(0))) for name in {**most, **steady}}
    return Demand(requests=FrozenDict(parts["requests"]), limits=FrozenDict(parts["limits"]))


def _sum(one: Mapping[str, Fraction], other: Mapping[str, Fraction]) -> dict[str, Fraction]:
    return {name: one.get(name, Fraction(0)) + other.get(name, Fraction(0)) for name in {**one, **other}}


def qos_class(demands: Iterable[Demand]) -> QosClass:
    """The QoS class of a pod with these containers, init containers among them."""
    compute = ("cpu", "memory")
    every = list(demands)
    if not any(one.requests.get(name) for one in every for name in compute):
        return QosClass.BEST_EFFORT
    fixed = all(one.limits.get(name) and one.limits[name] == one.requests[name] for one in every for name in compute)
    return QosClass.GUARANTEED if fixed else QosClass.BURSTABLE


def limits(wanted: Demand) -> Resources:
    """Shares, quota, period and memory, for a container or for the sums of a pod."""
    quota = wanted.limits.get("cpu", Fraction(0))
    return Resources(
        cpu_period=PERIOD,
        cpu_quota=max(_MIN_QUOTA, int(quota * PERIOD)) if quota else 0,
        cpu_shares=max(_MIN_SHARES, min(_MAX_SHARES, int(wanted.requests.get("cpu", Fraction(0)) * 1024))),
        memory_limit_in_bytes=_bytes(wanted.limits.get("memory", Fraction(0))),
    )


def container_resources(
    wanted: Demand, qos: QosClass, *, capacity: int, page_sizes: Iterable[str], sidecar_of: Iterable[Demand] = ()
) -> Resources:
    """All limits of one container on a node with `capacity` bytes of memory, and no swap for it.

    `page_sizes` are the node's, by the kernel's file names (`2MB`). `sidecar_of` are the pod's main containers if this is a
    sidecar: it must not be killed before them.
    """
    plain = limits(wanted)
    score = oom_score_adj(wanted, qos, capacity)
    if mains := [oom_score_adj(main, qos, capacity) for main in sidecar_of]:
        score = min(score, *mains)
    pages = {_page_name(name): value for name, value in wanted.limits.items() if name.startswith(_HUGEPAGES)}
    return attrs.evolve(
        plain,
        oom_score_adj=score,
        memory_swap_limit_in_bytes=plain.memory_limit_in_bytes,
        hugepage_limits=tuple(HugepageLimit(size, _bytes(pages.get(size, Fraction(0)))) for size in page_sizes),
    )


def oom_score_adj(wanted: Demand, qos: QosClass, capacity: int) -> int:
    """The oom_score_adj: 1000 best effort, -997 guaranteed, between by the share of the node's memory."""
    if qos is QosClass.BEST_EFFORT:
        return _BEST_EFFORT_OOM
    if qos is QosClass.GUARANTEED:
        return _GUARANTEED_OOM
    share = 1000 - 1000 * _bytes(wanted.requests.get("memory", Fraction(0))) // capacity
    return min(max(share, 1000 + _GUARANTEED_OOM), _BEST_EFFORT_OOM - 1)


def _bytes(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _page_name(resource: str) -> str:
    """The kernel's name of `hugepages-2Mi`: `2MB`."""
    return resource.removeprefix(_HUGEPAGES).removesuffix("i") + "B"
