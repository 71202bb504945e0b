"""The life cycles of sandboxes and containers. All transitions there are stand in the two tables of this file.

A sandbox, as CRI shows it, is READY or NOTREADY; a container CREATED, RUNNING, EXITED or UNKNOWN. Before it is shown at all it
has no state, None. UNKNOWN is a container whose backend, or whose own part of it, cannot be asked just now; it goes back to
RUNNING or on to EXITED when it can. There is no restart: a container that should run again is a new container (CRI,
StartContainer).

Acts that lead from a state to itself are requests that are allowed there; only `sandbox_after` and `container_after` decide.
"""

import enum
from collections.abc import Mapping

from crishim.errors import FailedPrecondition
from crishim.model.container import ContainerState
from crishim.model.sandbox import PodSandboxState


class SandboxAct(enum.StrEnum):
    """What may befall a sandbox. FIND and FIND_DEAD are what its backend shows at a recovery; FAIL is an undo that failed."""

    RUN = "run"
    FAIL = "fail"
    FIND = "find"
    STOP = "stop"
    DIE = "die"
    CREATE_CONTAINER = "create container"
    PORT_FORWARD = "port-forward"


class ContainerAct(enum.StrEnum):
    """What may befall a container. FIND and FIND_CREATED are what its backend shows at a recovery."""

    CREATE = "create"
    START = "start"
    EXIT = "exit"
    LOSE = "lose"
    FIND = "find"
    FIND_CREATED = "find created"
    EXEC = "exec"
    ATTACH = "attach"
    REOPEN_LOG = "reopen log"
    UPDATE = "update"
    CHECKPOINT = "checkpoint"


_READY, _NOTREADY = PodSandboxState.READY, PodSandboxState.NOTREADY

SANDBOX: Mapping[tuple[PodSandboxState | None, SandboxAct], PodSandboxState] = {
    (None, SandboxAct.RUN): _READY,
    (None, SandboxAct.FAIL): _NOTREADY,
    (None, SandboxAct.FIND): _READY,
    (None, SandboxAct.DIE): _NOTREADY,
    (_READY, SandboxAct.FAIL): _NOTREADY,
    (_READY, SandboxAct.FIND): _READY,
    (_READY, SandboxAct.STOP): _NOTREADY,
    (_READY, SandboxAct.DIE): _NOTREADY,
    (_READY, SandboxAct.CREATE_CONTAINER): _READY,
    (_READY, SandboxAct.PORT_FORWARD): _READY,
    (_NOTREADY, SandboxAct.FAIL): _NOTREADY,
    (_NOTREADY, SandboxAct.FIND): _READY,
    (_NOTREADY, SandboxAct.STOP): _NOTREADY,
    (_NOTREADY, SandboxAct.DIE): _NOTREADY,
}
"""(state, act) -> state. A removal is allowed in every state: it stops first."""

_CREATED, _RUNNING = ContainerState.CREATED, ContainerState.RUNNING
_EXITED, _UNKNOWN = ContainerState.EXITED, ContainerState.UNKNOWN

CONTAINER: Mapping[tuple[ContainerState | None, ContainerAct], ContainerState] = {
    (None, ContainerAct.CREATE): _CREATED,
    (None, ContainerAct.LOSE): _UNKNOWN,
    (None, ContainerAct.EXIT): _EXITED,
    (_CREATED, ContainerAct.START): _RUNNING,
    (_CREATED, ContainerAct.EXIT): _EXITED,
    (_CREATED, ContainerAct.LOSE): _UNKNOWN,
    (_CREATED, ContainerAct.FIND): _RUNNING,
    (_CREATED, ContainerAct.FIND_CREATED): _CREATED,
    (_CREATED, ContainerAct.UPDATE): _CREATED,
    (_RUNNING, ContainerAct.EXIT): _EXITED,
    (_RUNNING, ContainerAct.LOSE): _UNKNOWN,
    (_RUNNING, ContainerAct.FIND): _RUNNING,
    (_RUNNING, ContainerAct.EXEC): _RUNNING,
    (_RUNNING, ContainerAct.ATTACH): _RUNNING,
    (_RUNNING, ContainerAct.REOPEN_LOG): _RUNNING,
    (_RUNNING, ContainerAct.UPDATE): _RUNNING,
    (_RUNNING, ContainerAct.CHECKPOINT): _RUNNING,
    (_EXITED, ContainerAct.EXIT): _EXITED,
    (_EXITED, ContainerAct.UPDATE): _EXITED,
    (_UNKNOWN, ContainerAct.EXIT): _EXITED,
    (_UNKNOWN, ContainerAct.LOSE): _UNKNOWN,
    (_UNKNOWN, ContainerAct.FIND): _RUNNING,
    (_UNKNOWN, ContainerAct.FIND_CREATED): _CREATED,
}
"""(state, act) -> state. A removal is allowed in every state: it kills first."""


def sandbox_after(state: PodSandboxState | None, act: SandboxAct, subject: str = "sandbox") -> PodSandboxState:
    """The state after `act`. Raises `FailedPrecondition` where the table has none, naming the states that allow it."""
    after = SANDBOX.get((state, act))
    if after is None:
        allowed = " or ".join(s.name for s in PodSandboxState if (s, act) in SANDBOX)
        raise FailedPrecondition(state.name if state else "in the making", f"{allowed} to {act.value}", subject)
    return after


def container_after(state: ContainerState | None, act: ContainerAct, subject: str = "container") -> ContainerState:
    """The state after `act`. Raises `FailedPrecondition` where the table has none, naming the states that allow it."""
    after = CONTAINER.get((state, act))
    if after is None:
        allowed = " or ".join(s.name for s in ContainerState if (s, act) in CONTAINER)
        raise FailedPrecondition(state.name if state else "in the making", f"{allowed} to {act.value}", subject)
    return after
