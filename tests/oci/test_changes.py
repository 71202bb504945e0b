"""Changes of a config.json by plugins of the node."""

from typing import Any

import pytest

from crishim.oci.changes import apply_changes


def config() -> dict[str, Any]:
    return {
        "process": {"args": ["a"], "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1, "soft": 1}]},
        "mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/a/b", "type": "bind"}],
        "annotations": {"have": "1", "keep": "2"},
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}],
            "resources": {"memory": {"limit": 5}, "devices": [{"allow": False, "access": "rwm"}]},
            "devices": [{"path": "/dev/a", "type": "c", "major": 1, "minor": 2}],
            "sysctl": {"x": "1"},
            "cgroupsPath": "/old",
        },
    }


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({"annotations": {"have": None, "new": "3"}}, "annotations", {"keep": "2", "new": "3"}),
        ({"mounts": [{"destination": "/a/b", "remove": True}]}, "mounts", [{"destination": "/proc", "type": "proc"}]),
        (
            {"mounts": [{"destination": "/a", "type": "tmpfs"}]},
            "mounts",
            [
                {"destination": "/proc", "type": "proc"},
                {"destination": "/a", "type": "tmpfs"},
                {"destination": "/a/b", "type": "bind"},
            ],
        ),
        ({"hooks": {"prestart": [{"path": "/x"}]}}, "hooks", {"prestart": [{"path": "/x"}]}),
        (
            {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 8}, {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]},
            "process.rlimits",
            [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 8}, {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}],
        ),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}}, "process.ioPriority.priority", 4),
        ({"scheduler": {"policy": "SCHED_IDLE"}}, "process.scheduler.policy", "SCHED_IDLE"),
        ({"cgroupsPath": "/new"}, "linux.cgroupsPath", "/new"),
        ({"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}, "linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW"}),
        ({"memoryPolicy": {"mode": "MPOL_BIND"}}, "linux.memoryPolicy", {"mode": "MPOL_BIND"}),
        ({"intelRdt": {"closID": "gold"}}, "linux.intelRdt", {"closID": "gold"}),
        (
            {"namespaces": {"pid": None, "network": "/run/n", "cgroup": ""}},
            "linux.namespaces",
            [{"type": "mount"}, {"type": "network", "path": "/run/n"}, {"type": "cgroup"}],
        ),
        ({"sysctl": {"x": None, "y": "2"}}, "linux.sysctl", {"y": "2"}),
        ({"netDevices": {"eth1": {"name": "net1"}}}, "linux.netDevices", {"eth1": {"name": "net1"}}),
        ({"devices": [{"path": "/dev/a", "remove": True}]}, "linux.devices", []),
        (
            {"devices": [{"path": "/dev/a", "type": "b", "major": 3, "minor": 4}]},
            "linux.resources.devices",
            [{"allow": False, "access": "rwm"}, {"allow": True, "type": "b", "major": 3, "minor": 4, "access": "rwm"}],
        ),
        ({"resources": {"memory": {"reservation": 3}}}, "linux.resources.memory", {"limit": 5, "reservation": 3}),
        ({"resources": {"pids": {"limit": 7}}}, "linux.resources.pids", {"limit": 7}),
        (
            {"resources": {"devices": [{"allow": True, "access": "r"}]}},
            "linux.resources.devices",
            [{"allow": False, "access": "rwm"}, {"allow": True, "access": "r"}],
        ),
    ],
)
def test_each_change(changes: dict[str, Any], path: str, expected: object) -> None:
    """Each key changes its part of the OCI runtime specification's config.json (config.md, config-linux.md)."""
    changed: Any = config()
    apply_changes(changed, changes)
    for name in path.split("."):
        changed = changed[name]
    assert expected == changed


def test_a_removed_class_and_no_change() -> None:
    """None removes intelRdt; without changes nothing changes."""
    changed = config()
    changed["linux"]["intelRdt"] = {"closID": "x"}
    apply_changes(changed, {"intelRdt": None})
    assert config() == changed
    apply_changes(changed, {})
    assert config() == changed
