"""Converts the engine's inspect of a container (pure)."""

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
"""The labels that mark this backend's containers. They only serve to find them; the library has the records."""

SANDBOX_KIND: Final = "sandbox"
CONTAINER_KIND: Final = "container"
HELPER_KIND: Final = "helper"
"""The kind of a container; a helper is never started, and serves to read an image's files."""

_ENDED: Final = frozenset({"exited", "dead", "removing"})
_RUNS: Final = frozenset({"running", "paused", "restarting"})


@attrs.frozen(kw_only=True)
class Known:
    """The properties of a created container that are needed later; all of them can be read from its inspect.

    `parent` is its cgroup parent in the engine's form; `upper` the folder of its writable layer, None before the first inspect
    and empty if the engine has none; `netns` its network namespace, empty for a container of a pod.
    """

    engine_id: str
    parent: str
    sandbox: str = ""
    log: str = ""
    tty: bool = False
    unified: FrozenDict[str, str] = EMPTY
    upper: str | None = None
    netns: str = ""


def known_of(inspected: Mapping[str, Any]) -> Known:
    """The properties in an inspect."""
    labels, host = labels_of(inspected), inspected["HostConfig"]
    driver = (inspected.get("GraphDriver") or {}).get("Data") or {}
    bare = host.get("NetworkMode") == "host" or labels.get(KIND) != SANDBOX_KIND
    return Known(
        engine_id=str(inspected["Id"]),
        parent=str(host.get("CgroupParent") or ""),
        sandbox=labels.get(SANDBOX, ""),
        log=labels.get(LOG, ""),
        tty=bool(inspected["Config"].get("Tty")),
        unified=FrozenDict(json.loads(labels.get(UNIFIED) or "{}")),
        upper=str(driver.get("UpperDir") or ""),
        netns="" if bare else netns_of(inspected),
    )


def netns_of(inspected: Mapping[str, Any]) -> str:
    """The engine's pin of a running container's network namespace, in the engine's mount namespace; empty if there is none."""
    return str(inspected["NetworkSettings"].get("SandboxKey") or "")


def pid_of(inspected: Mapping[str, Any]) -> int:
    """The pid of a container's first process; 0 when it does not run."""
    return int(inspected["State"].get("Pid") or 0) if runs(inspected) else 0


def addresses_of(inspected: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses in the engine's own networks, at most one of each family, IPv4 first."""
    networks = (inspected["NetworkSettings"].get("Networks") or {}).values()
    four = [network["IPAddress"] for network in networks if network.get("IPAddress")]
    six = [network["GlobalIPv6Address"] for network in networks if network.get("GlobalIPv6Address")]
    return (*four[:1], *six[:1])


def name_of(inspected: Mapping[str, Any]) -> str:
    """The sandbox's or container's id."""
    return str(inspected["Name"]).lstrip("/")


def labels_of(inspected: Mapping[str, Any]) -> Mapping[str, str]:
    """A container's labels."""
    return inspected["Config"].get("Labels") or {}


def moment(text: str | None) -> int | None:
    """Nanoseconds since the epoch; None for the engine's zero, which is the year 1."""
    if not text or text.startswith("0001-"):
        return None
    try:
        return parse_time(text)
    except DataLoss:
        return None


def runs(inspected: Mapping[str, Any]) -> bool:
    """Whether a container runs."""
    return inspected["State"].get("Status") in _RUNS and bool(inspected["State"].get("Running"))


def exit_of(inspected: Mapping[str, Any]) -> Exit | None:
    """The exit status of a container; None if it runs, or never ran."""
    state = inspected["State"]
    ended = moment(state.get("FinishedAt"))
    if runs(inspected) or state.get("Status") not in _ENDED or ended is None:
        return None
    return Exit(
        code=int(state.get("ExitCode") or 0),
        at=ended,
        started_at=moment(state.get("StartedAt")),
        oom=bool(state.get("OOMKilled")),
        message=str(state.get("Error") or ""),
    )


def exit_of_event(event: Mapping[str, Any]) -> Exit | None:
    """The exit status in the engine's event, for containers that are removed before they can be inspected."""
    if event.get("Action") != "die":
        return None
    code = (event.get("Actor") or {}).get("Attributes", {}).get("exitCode", "")
    return Exit(code=int(code), at=int(event.get("timeNano") or 0) or None) if code.isdigit() else Exit.unknown()


def container_of(inspected: Mapping[str, Any]) -> ObservedContainer:
    """A container as the inventory shows it."""
    end = exit_of(inspected)
    state = ContainerState.RUNNING if runs(inspected) else ContainerState.CREATED if end is None else ContainerState.EXITED
    return ObservedContainer(
        id=ContainerId(name_of(inspected)),
        sandbox_id=SandboxId(labels_of(inspected).get(SANDBOX, "")),
        state=state,
        started_at=None if state is ContainerState.CREATED else moment(inspected["State"].get("StartedAt")),
        exit=end,
    )
