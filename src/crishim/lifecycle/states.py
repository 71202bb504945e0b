"""The life cycles of sandboxes and containers. All transitions there are stand in the two tables of this file.

A sandbox, as CRI shows it, is READY or NOTREADY; a container CREATED, RUNNING, EXITED or UNKNOWN. UNKNOWN is a container
whose backend cannot be asked just now; it goes back to RUNNING or on to EXITED when it can. There is no restart: a container
that should run again is a new container (CRI, StartContainer).
"""

import enum
from collections.abc import Mapping

from crishim.errors import FailedPrecondition
from crishim.model.container import ContainerState
from crishim.model.sandbox import PodSandboxState


class SandboxAct(enum.StrEnum):
    """What may befall a sandbox."""

    STOP = "stop"
    DIE = "die"
    REVIVE = "revive"
    CREATE_CONTAINER = "create container"
    PORT_FORWARD = "port-forward"
    REMOVE = "remove"


class ContainerAct(enum.StrEnum):
    """What may befall a container."""

    START = "start"
    EXIT = "exit"
    LOSE = "lose"
    FIND = "find"
    KILL = "kill"
    EXEC = "exec"
    ATTACH = "attach"
    REOPEN_LOG = "reopen log"
    UPDATE = "update"
    CHECKPOINT = "checkpoint"
    REMOVE = "remove"


_READY, _NOTREADY = PodSandboxState.READY, PodSandboxState.NOTREADY

SANDBOX: Mapping[tuple[PodSandboxState, SandboxAct], PodSandboxState] = {
    (_READY, SandboxAct.STOP): _NOTREADY,
    (_READY, SandboxAct.DIE): _NOTREADY,
    (_READY, SandboxAct.CREATE_CONTAINER): _READY,
    (_READY, SandboxAct.PORT_FORWARD): _READY,
    (_READY, SandboxAct.REMOVE): _NOTREADY,
    (_NOTREADY, SandboxAct.STOP): _NOTREADY,
    (_NOTREADY, SandboxAct.DIE): _NOTREADY,
    (_NOTREADY, SandboxAct.REVIVE): _READY,
    (_NOTREADY, SandboxAct.REMOVE): _NOTREADY,
}
"""(state, act) -> state. A removal is allowed in every state: it stops first."""

_CREATED, _RUNNING = ContainerState.CREATED, ContainerState.RUNNING
_EXITED, _UNKNOWN = ContainerState.EXITED, ContainerState.UNKNOWN

CONTAINER: Mapping[tuple[ContainerState, ContainerAct], ContainerState] = {
    (_CREATED, ContainerAct.START): _RUNNING,
    (_CREATED, ContainerAct.EXIT): _EXITED,
    (_CREATED, ContainerAct.LOSE): _UNKNOWN,
    (_CREATED, ContainerAct.FIND): _RUNNING,
    (_CREATED, ContainerAct.UPDATE): _CREATED,
    (_CREATED, ContainerAct.REMOVE): _EXITED,
    (_RUNNING, ContainerAct.EXIT): _EXITED,
    (_RUNNING, ContainerAct.LOSE): _UNKNOWN,
    (_RUNNING, ContainerAct.FIND): _RUNNING,
    (_RUNNING, ContainerAct.KILL): _RUNNING,
    (_RUNNING, ContainerAct.EXEC): _RUNNING,
    (_RUNNING, ContainerAct.ATTACH): _RUNNING,
    (_RUNNING, ContainerAct.REOPEN_LOG): _RUNNING,
    (_RUNNING, ContainerAct.UPDATE): _RUNNING,
    (_RUNNING, ContainerAct.CHECKPOINT): _RUNNING,
    (_RUNNING, ContainerAct.REMOVE): _EXITED,
    (_EXITED, ContainerAct.UPDATE): _EXITED,
    (_EXITED, ContainerAct.REMOVE): _EXITED,
    (_UNKNOWN, ContainerAct.EXIT): _EXITED,
    (_UNKNOWN, ContainerAct.LOSE): _UNKNOWN,
    (_UNKNOWN, ContainerAct.FIND): _RUNNING,
    (_UNKNOWN, ContainerAct.KILL): _UNKNOWN,
    (_UNKNOWN, ContainerAct.REMOVE): _EXITED,
}
"""(state, act) -> state. A removal is allowed in every state: it kills first."""


def sandbox_after(state: PodSandboxState, act: SandboxAct, subject: str = "sandbox") -> PodSandboxState:
    """The state after `act`; `FailedPrecondition` where the table has none."""
    after = SANDBOX.get((state, act))
    if after is None:
        wanted = " or ".join(s.name for s in PodSandboxState if (s, act) in SANDBOX)
        raise FailedPrecondition(state.name, f"{wanted} to {act.value}", subject)
    return after


def container_after(state: ContainerState, act: ContainerAct, subject: str = "container") -> ContainerState:
    """The state after `act`; `FailedPrecondition` where the table has none."""
    after = CONTAINER.get((state, act))
    if after is None:
        wanted = " or ".join(s.name for s in ContainerState if (s, act) in CONTAINER)
        raise FailedPrecondition(state.name, f"{wanted} to {act.value}", subject)
    return after
