"""The life cycles of sandboxes and containers, as two transition tables.

A sandbox is READY or NOTREADY in CRI; a container CREATED, RUNNING, EXITED or UNKNOWN. Before it is shown it has no state,
None. A container is UNKNOWN while its backend, or the part of the backend that runs it, cannot be reached; it then goes back
to RUNNING or on to EXITED. A container is never restarted: the client creates a new one (CRI, StartContainer).

An act that leads from a state to itself is a request that is allowed in that state. Only `sandbox_after` and `container_after`
decide.
"""

import enum
from collections.abc import Mapping

from crishim.errors import FailedPrecondition
from crishim.model.container import ContainerState
from crishim.model.sandbox import PodSandboxState


class SandboxAct(enum.StrEnum):
    """The events of a sandbox's life cycle. FIND and FIND_DEAD are observed by recovery; FAIL is a failed undo."""

    RUN = "run"
    FAIL = "fail"
    FIND = "find"
    STOP = "stop"
    DIE = "die"
    CREATE_CONTAINER = "create container"
    PORT_FORWARD = "port-forward"


class ContainerAct(enum.StrEnum):
    """The events of a container's life cycle. FIND and FIND_CREATED are observed by recovery."""

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
"""(state, act) -> state. A removal is allowed in every state: it stops the sandbox first."""

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
"""(state, act) -> state. A removal is allowed in every state: it kills the container first."""


def sandbox_after(state: PodSandboxState | None, act: SandboxAct, subject: str = "sandbox") -> PodSandboxState:
    """The state after `act`. Raises `FailedPrecondition`, naming the states that allow it, if the table has no entry."""
    after = SANDBOX.get((state, act))
    if after is None:
        allowed = " or ".join(s.name for s in PodSandboxState if (s, act) in SANDBOX)
        raise FailedPrecondition(state.name if state else "being created", f"{allowed} to {act.value}", subject)
    return after


def container_after(state: ContainerState | None, act: ContainerAct, subject: str = "container") -> ContainerState:
    """The state after `act`. Raises `FailedPrecondition`, naming the states that allow it, if the table has no entry."""
    after = CONTAINER.get((state, act))
    if after is None:
        allowed = " or ".join(s.name for s in ContainerState if (s, act) in CONTAINER)
        raise FailedPrecondition(state.name if state else "being created", f"{allowed} to {act.value}", subject)
    return after
