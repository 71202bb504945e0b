"""The conversion of an inspect to our values."""

from typing import Any

import pytest

from crishim.backends.docker import observed
from crishim.backends.docker.observed import Known
from crishim.model.container import ContainerState, ObservedContainer
from crishim.model.process import Exit
from crishim.model.values import ContainerId, FrozenDict, SandboxId

NEVER = "0001-01-01T00:00:00Z"
BEGAN = "2026-01-02T03:04:05.5Z"
ENDED = "2026-01-02T03:04:06Z"


def inspect_of(status: str, *, running: bool = False, began: str = NEVER, ended: str = NEVER, **state: Any) -> dict[str, Any]:
    return {
        "Id": "e" * 64,
        "Name": "/c1",
        "State": {"Status": status, "Running": running, "StartedAt": began, "FinishedAt": ended, **state},
        "Config": {"Tty": True, "Labels": {observed.SANDBOX: "s1", observed.LOG: "/log", observed.KIND: "container"}},
        "HostConfig": {"CgroupParent": "/parent", "NetworkMode": "container:s1"},
        "NetworkSettings": {"SandboxKey": ""},
        "GraphDriver": {"Data": {"UpperDir": "/upper"}},
    }


STATES = [
    (inspect_of("created"), ContainerState.CREATED, None),
    (inspect_of("created", ExitCode=127, Error="no such program"), ContainerState.CREATED, None),
    (inspect_of("running", running=True, began=BEGAN), ContainerState.RUNNING, None),
    (inspect_of("paused", running=True, began=BEGAN), ContainerState.RUNNING, None),
    (
        inspect_of("exited", began=BEGAN, ended=ENDED, ExitCode=3),
        ContainerState.EXITED,
        Exit(code=3, at=1767323046_000000000, started_at=1767323045_500000000),
    ),
    (
        inspect_of("dead", began=BEGAN, ended=ENDED, ExitCode=137, OOMKilled=True, Error="why"),
        ContainerState.EXITED,
        Exit(code=137, at=1767323046_000000000, started_at=1767323045_500000000, oom=True, message="why"),
    ),
]


@pytest.mark.parametrize(("inspect", "state", "end"), STATES)
def test_states(inspect: dict[str, Any], state: ContainerState, end: Exit | None) -> None:
    """What has ended has its exit; what never ran is CREATED, even if its start failed; the engine's year 1 is no time."""
    began = None if state is ContainerState.CREATED else 1767323045_500000000
    expected = ObservedContainer(id=ContainerId("c1"), sandbox_id=SandboxId("s1"), state=state, started_at=began, exit=end)
    assert expected == observed.container_of(inspect)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({}, None),
        ({"Action": "destroy"}, None),
        ({"Action": "die", "Actor": {"Attributes": {"exitCode": "9"}}, "timeNano": 5}, Exit(code=9, at=5)),
        ({"Action": "die"}, Exit.unknown()),
    ],
)
def test_events_of_ends(event: dict[str, Any], expected: Exit | None) -> None:
    """Only `die` reports an exit; without a code the exit is unknown."""
    assert expected == observed.exit_of_event(event)


def test_what_is_known_of_a_container() -> None:
    """All that a later life needs is in an inspect."""
    expected = Known(engine_id="e" * 64, parent="/parent", sandbox="s1", log="/log", tty=True, upper="/upper")
    assert expected == observed.known_of(inspect_of("created"))


def test_unified_limits_come_back() -> None:
    """The cgroup files that a start has to write are found in a label."""
    inspect = inspect_of("created")
    inspect["Config"]["Labels"][observed.UNIFIED] = '{"memory.high": "1"}'
    assert FrozenDict({"memory.high": "1"}) == observed.known_of(inspect).unified


@pytest.mark.parametrize(("mode", "expected"), [("none", "/pin"), ("host", "")])
def test_a_pods_namespace(mode: str, expected: str) -> None:
    """A pod's network namespace is the one that the engine pins; the host's is none of the pod's."""
    inspect = inspect_of("running", running=True, began=BEGAN)
    inspect["Config"]["Labels"][observed.KIND] = "sandbox"
    inspect["HostConfig"]["NetworkMode"] = mode
    inspect["NetworkSettings"]["SandboxKey"] = "/pin"
    assert expected == observed.known_of(inspect).netns


def test_addresses() -> None:
    """One address of each family at most, IPv4 first."""
    networks = {
        "a": {"IPAddress": "", "GlobalIPv6Address": "fd::1"},
        "b": {"IPAddress": "10.0.0.2", "GlobalIPv6Address": ""},
        "c": {"IPAddress": "10.0.0.3"},
    }
    assert ("10.0.0.2", "fd::1") == observed.addresses_of({"NetworkSettings": {"Networks": networks}})


def test_the_pid_of_a_first_process() -> None:
    """A running container has one; the pid that an engine reports for another is ignored."""
    running, ended = inspect_of("running", running=True, began=BEGAN), inspect_of("exited", began=BEGAN)
    for inspect in (running, ended):
        inspect["State"]["Pid"] = 42
    assert (42, 0) == (observed.pid_of(running), observed.pid_of(ended))
