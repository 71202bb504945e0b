"""Items of LXC's configuration, made of config.json."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from lxc_config import items, seccomp

from crishim import InvalidArgument


def config(**changes: Any) -> dict[str, Any]:
    process = {"args": ["sh"], "env": ["A=1\n2", "B="], "user": {"uid": 1, "gid": 2, "additionalGids": [3, 4]}, "cwd": "/work"}
    linux = {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/net"}], "cgroupsPath": "/pods/one"}
    made = {"process": process, "root": {"path": "rootfs"}, "mounts": [], "linux": linux}
    for path, value in changes.items():
        *parents, name = path.split("__")
        part: Any = made
        for parent in parents:
            part = part[parent]
        part[name] = value
    return made


def converted(bundle: Path, **changes: Any) -> dict[str, list[str]]:
    """The values of each key; the bundle's root has a link `var/run` to `/run`."""
    (bundle / "rootfs" / "var").mkdir(parents=True)
    (bundle / "rootfs" / "var" / "run").symlink_to("/run")
    found = defaultdict(list)
    for key, value in items(bundle, bundle / "files", config(**changes), v2=False):
        found[key].append(value)
    return found


def test_the_process(tmp_path: Path) -> None:
    """User, groups, folder and variables are the process's, a variable of two lines, too; the folder is made."""
    found = converted(tmp_path)
    assert (["1"], ["2"], ["3,4"]) == (found["lxc.init.uid"], found["lxc.init.gid"], found["lxc.init.groups"])
    assert (["/work"], ["A=1\n2", "B="]) == (found["lxc.init.cwd"], found["lxc.environment"])
    assert (tmp_path / "rootfs" / "work").is_dir()


def test_namespaces(tmp_path: Path) -> None:
    """Only what config.json names without a path is new; the node's namespaces are kept."""
    found = converted(tmp_path)
    assert (["mnt"], ["/net"]) == (found["lxc.namespace.clone"], found["lxc.namespace.share.net"])


def test_cgroups(tmp_path: Path) -> None:
    """The process beside a container has a cgroup in that of the pod; limits and devices are as config.json has them."""
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"}]
    found = converted(tmp_path, linux__resources={"memory": {"limit": 4096}, "devices": rules})
    assert (["pods/one"], ["pods/monitor-one"]) == (found["lxc.cgroup.dir.container"], found["lxc.cgroup.dir.monitor"])
    assert (["4096"], ["a *:* rwm"]) == (found["lxc.cgroup.memory.limit_in_bytes"], found["lxc.cgroup.devices.deny"])
    assert "c 10:200 rw" == found["lxc.cgroup.devices.allow"][0]


def test_mounts(tmp_path: Path) -> None:
    """Links of the root lead nowhere outside of it, and blanks in a path are as in fstab(5)."""
    source = tmp_path / "a b"
    source.mkdir()
    mount = {"destination": "/var/run/secrets", "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
    found = converted(tmp_path, mounts=[mount])
    assert [rf"{tmp_path}/a\040b run/secrets bind rbind,ro,create=dir 0 0"] == found["lxc.mount.entry"]
    assert (tmp_path / "rootfs" / "run" / "secrets").is_dir()


def test_masked_paths(tmp_path: Path) -> None:
    """A folder is hidden by an empty one, a file by /dev/null, and what does not exist is left out."""
    found = converted(tmp_path, linux__maskedPaths=["/proc/sys", "/proc/uptime", "/var", "/proc/none"])
    expected = ["tmpfs proc/sys tmpfs ro,optional 0 0", "/dev/null proc/uptime none bind,optional 0 0"]
    assert [*expected, "tmpfs var tmpfs ro,optional 0 0"] == found["lxc.mount.entry"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hooks": {"prestart": [{"path": "/bin/true"}]}}, "hooks"),
        ({"process__capabilities": {"ambient": ["CAP_CHOWN"]}}, "process.capabilities.ambient"),
        ({"linux__sysctl": {"net.ipv4.ip_forward": "1"}}, "linux.sysctl"),
        ({"process__selinuxLabel": "a:b:c:s0"}, "process.selinuxLabel"),
        ({"linux__namespaces": [{"type": "user"}]}, "linux.namespaces"),
        ({"mounts": [{"destination": "/a", "source": "/", "options": ["rbind", "rshared"]}]}, "mounts.options"),
        ({"linux__seccomp": {"defaultAction": "SCMP_ACT_LOG"}}, "linux.seccomp"),
        ({"linux__devices": [{"path": "/dev/x", "type": "c", "major": 4000, "minor": 1}]}, "devices"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    """What LXC cannot do is an error that names it."""
    (tmp_path / "files").mkdir()
    with pytest.raises(InvalidArgument, match=rf"^{field}"):
        converted(tmp_path, **changes)


def test_seccomp() -> None:
    """Rules have the actions and conditions of LXC; those with the default's action, which libseccomp refuses, are left out."""
    masked = {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [masked]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        ],
    }
    expected = ["2", "allowlist errno 1", "read allow ", "write allow ", "clone allow [0,0,SCMP_CMP_MASKED_EQ,2114060288]"]
    expected += ["personality allow [0,8,SCMP_CMP_EQ]", "clone3 errno 38 "]
    assert expected == list(seccomp(profile))
