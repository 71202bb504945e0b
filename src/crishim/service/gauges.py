"""How many there are of what, at this moment; for figures that are asked for and not told."""

from collections import Counter
from collections.abc import Mapping

import attrs

from crishim.model.container import ContainerState
from crishim.model.sandbox import PodSandboxState
from crishim.model.values import FrozenDict
from crishim.service.core import Core


@attrs.frozen(kw_only=True)
class Gauges:
    """Shown sandboxes and containers by state, every state named; whether the backends of each name can all be reached."""

    sandboxes: Mapping[PodSandboxState, int]
    containers: Mapping[ContainerState, int]
    backends: Mapping[str, bool]


def count_gauges(core: Core) -> Gauges:
    """Count. What is still being made is not shown, and not counted."""
    sandboxes = Counter(entry.state for entry in core.table.sandboxes.values())
    containers = Counter(entry.state for entry in core.table.containers.values())
    problems: dict[str, list[str]] = {}
    for seat in core.backends.seats:
        problems.setdefault(seat.name, []).append(seat.problem)
    return Gauges(
        sandboxes=FrozenDict({state: sandboxes[state] for state in PodSandboxState}),
        containers=FrozenDict({state: containers[state] for state in ContainerState}),
        backends=FrozenDict({name: not any(seats) for name, seats in problems.items()}),
    )
