"""What the engine's inspect says of a container, in our words (pure)."""

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs

from crishim.errors import DataLoss
from crishim.logs.lines import parse_time
from crishim.model.container import ContainerState, ObservedContainer
from crishim.model.process import Exit
from crishim.model.values import EMPTY, ContainerId, FrozenDict, SandboxId

KIND: Final = "io.crishim.kind"
OWNER: Final = "io.crishim.owner"
SANDBOX: Final = "io.crishim.sandbox"
LOG: Final = "io.crishim.log"
UNIFIED: Final = "io.crishim.unified"
"""The labels that mark what is ours. Records are the library's: these only find."""

SANDBOX_KIND: Final = "sandbox"
CONTAINER_KIND: Final = "container"
HELPER_KIND: Final = "helper"
"""What a container is to us; a helper is never run, and holds an image's files for us to look at."""

_ENDED: Final = frozenset({"exited", "dead", "removing"})
_RUNS: Final = frozenset({"running", "paused", "restarting"})


@attrs.frozen(kw_only=True)
class Known:
    """What is needed of a container after its creation; all of it is in its inspect, too.

    `parent` is its cgroup's, as the engine was given it; `upper` the folder of its writable layer, None before it was asked
    for and empty where the engine tells none; `netns` its network namespace, empty for a container of a pod.
    """

    engine_id: str
    parent: str
    sandbox: str = ""
    log: str = ""
    tty: bool = False
    unified: FrozenDict[str, str] = EMPTY
    upper: str | None = None
    netns: str = ""


def known_of(told: Mapping[str, Any]) -> Known:
    """What an inspect says of it."""
    labels, host = labels_of(told), told["HostConfig"]
    driver = (told.get("GraphDriver") or {}).get("Data") or {}
    bare = host.get("NetworkMode") == "host" or labels.get(KIND) != SANDBOX_KIND
    return Known(
        engine_id=str(told["Id"]),
        parent=str(host.get("CgroupParent") or ""),
        sandbox=labels.get(SANDBOX, ""),
        log=labels.get(LOG, ""),
        tty=bool(told["Config"].get("Tty")),
        unified=FrozenDict(json.loads(labels.get(UNIFIED) or "{}")),
        upper=str(driver.get("UpperDir") or ""),
        netns="" if bare else netns_of(told),
    )


def netns_of(told: Mapping[str, Any]) -> str:
    """Where the engine pins a running container's network namespace, in its own mount namespace; empty where it tells none."""
    return str(told["NetworkSettings"].get("SandboxKey") or "")


def pid_of(told: Mapping[str, Any]) -> int:
    """The pid of a container's first process; 0 when it does not run."""
    return int(told["State"].get("Pid") or 0) if runs(told) else 0


def addresses_of(told: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses in the engine's own networks, at most one of each family, IPv4 first."""
    networks = (told["NetworkSettings"].get("Networks") or {}).values()
    four = [network["IPAddress"] for network in networks if network.get("IPAddress")]
    six = [network["GlobalIPv6Address"] for network in networks if network.get("GlobalIPv6Address")]
    return (*four[:1], *six[:1])


def name_of(told: Mapping[str, Any]) -> str:
    """Our id."""
    return str(told["Name"]).lstrip("/")


def labels_of(told: Mapping[str, Any]) -> Mapping[str, str]:
    """A container's labels."""
    return told["Config"].get("Labels") or {}


def moment(text: str | None) -> int | None:
    """Nanoseconds since the epoch; None for the engine's zero, which is the year 1."""
    if not text or text.startswith("0001-"):
        return None
    try:
        return parse_time(text)
    except DataLoss:
        return None


def runs(told: Mapping[str, Any]) -> bool:
    """Whether a container runs."""
    return told["State"].get("Status") in _RUNS and bool(told["State"].get("Running"))


def exit_of(told: Mapping[str, Any]) -> Exit | None:
    """How a container ended; None if it has not, or never ran."""
    state = told["State"]
    ended = moment(state.get("FinishedAt"))
    if runs(told) or state.get("Status") not in _ENDED or ended is None:
        return None
    return Exit(
        code=int(state.get("ExitCode") or 0),
        at=ended,
        started_at=moment(state.get("StartedAt")),
        oom=bool(state.get("OOMKilled")),
        message=str(state.get("Error") or ""),
    )


def exit_told(event: Mapping[str, Any]) -> Exit | None:
    """How a container ended, by the engine's event of it; for those that are gone before they can be inspected."""
    if event.get("Action") != "die":
        return None
    code = (event.get("Actor") or {}).get("Attributes", {}).get("exitCode", "")
    return Exit(code=int(code), at=int(event.get("timeNano") or 0) or None) if code.isdigit() else Exit.unknown()


def container_of(told: Mapping[str, Any]) -> ObservedContainer:
    """A container as the inventory shows it."""
    end = exit_of(told)
    state = ContainerState.RUNNING if runs(told) else ContainerState.CREATED if end is None else ContainerState.EXITED
    return ObservedContainer(
        id=ContainerId(name_of(told)),
        sandbox_id=SandboxId(labels_of(told).get(SANDBOX, "")),
        state=state,
        started_at=None if state is ContainerState.CREATED else moment(told["State"].get("StartedAt")),
        exit=end,
    )
