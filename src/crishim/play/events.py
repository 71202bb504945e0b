"""The events that a player reports."""

import enum

import attrs


class EventKind(enum.StrEnum):
    """The kind of an event; the value is how it is shown."""

    PHASE = "phase"
    SANDBOX = "sandbox ready"
    PULLING = "pulling"
    PULLED = "pulled"
    CREATED = "created"
    STARTED = "started"
    READY = "ready"
    UNREADY = "not ready"
    UNHEALTHY = "unhealthy"
    HOOK_FAILED = "hook failed"
    EXITED = "exited"
    WAITING = "waiting"
    STOPPING = "stopping"
    REMOVED = "removed"


@attrs.frozen(kw_only=True)
class Event:
    """One thing that happened to a pod, or to its container `container`. `log` is set with STARTED: the path of its log."""

    kind: EventKind
    container: str = ""
    text: str = ""
    code: int | None = None
    log: str = ""


class PodPhase(enum.StrEnum):
    """A pod's phase, as Kubernetes counts it."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@attrs.frozen(kw_only=True)
class Outcome:
    """How a pod ended. `code` is 0, or the first code of a container that was not; `codes` are the last of each container."""

    phase: PodPhase
    code: int
    codes: tuple[tuple[str, int], ...] = ()
