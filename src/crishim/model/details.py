"""What the status verbs answer: a status, and what is told beside it."""

import attrs

from crishim.model.container import ContainerStatus
from crishim.model.frozen import EMPTY, FrozenDict, frozen
from crishim.model.sandbox import PodSandboxStatus


@attrs.frozen(kw_only=True)
class PodSandboxDetail:
    """The answer to PodSandboxStatus. `info` is filled for verbose requests only.

    `containers_statuses` and `timestamp` (the moment at which all of it was so) are for clients that live by events; empty and
    0 where the runtime sends none.
    """

    status: PodSandboxStatus
    info: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    containers_statuses: tuple[ContainerStatus, ...] = ()
    timestamp: int = 0


@attrs.frozen(kw_only=True)
class ContainerDetail:
    """The answer to ContainerStatus. `info` is filled for verbose requests only."""

    status: ContainerStatus
    info: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
