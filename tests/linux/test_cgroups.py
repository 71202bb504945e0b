import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.errors import FailedPrecondition, Unknown
from crishim.linux.cgroups import Cgroups, folder_of, own_folder, read_text, slice_folder, start_scope
from crishim.model.stats import CgroupUsage
from crishim.pods.usage import cgroup_usage, network_of, open_files

DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
  net1:       5       1    0    0    0     0          0         0        6       1    0    0    0     0       0          0
  eth0:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/kubepods/pod1/c1", "/kubepods/pod1/c1"),
        ("crishim/c1", "/crishim/c1"),
        ("system.slice:crishim:c1", "/system.slice/crishim-c1.scope"),
        (
            "kubepods-burstable-pod1.slice:crishim:c1",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/crishim-c1.scope",
        ),
        (":crishim:c1", "/system.slice/crishim-c1.scope"),
        ("a.slice::c1", "/a.slice/c1.scope"),
        ("-.slice:crishim:c1", "/crishim-c1.scope"),
        ("a.slice:crishim:b.slice", "/a.slice/b.slice"),
    ],
)
def test_where_a_cgroup_lies(path: str, expected: str) -> None:
    """A cgroupsPath is a path, or systemd's slice, prefix and name, whose slices lie in one another (runc, docs/systemd.md)."""
    assert expected == folder_of(path)


def test_a_slice_may_be_given_with_its_folders() -> None:
    """The kubelet gives a slice by its whole path or by its name: both lead to the same folder."""
    assert "/kubepods.slice/kubepods-pod1.slice" == slice_folder("/kubepods.slice/kubepods-pod1.slice")
    assert "/kubepods.slice/kubepods-pod1.slice" == slice_folder("kubepods-pod1.slice")


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_v2_is_one_folder(tmp_path: Path) -> None:
    """On v2 all files lie in the container's one folder."""
    write(tmp_path / "a" / "c1", memory__current="5\n", cgroup__procs="1\n22\n")
    cgroups = Cgroups(v2=True, root=tmp_path)
    assert [True, False] == [cgroups.exists("/a/c1"), cgroups.exists("/a/c2")]
    assert CgroupUsage(memory=5, processes=2) == cgroup_usage(cgroups, "/a/c1")
    assert CgroupUsage() == cgroup_usage(cgroups, "/a/c2")
    assert [1, 22] == cgroups.pids("/a/c1")


def test_v1_is_a_folder_per_controller(tmp_path: Path) -> None:
    """On v1 every controller has the container's folder; the values of a missing controller are left out."""
    write(tmp_path / "memory" / "a" / "c1", memory__usage_in_bytes="5\n", cgroup__procs="1\n")
    write(tmp_path / "pids" / "a" / "c1", pids__current="3\n")
    cgroups = Cgroups(v2=False, root=tmp_path)
    assert CgroupUsage(memory=5, processes=1, tasks=3) == cgroup_usage(cgroups, "/a/c1")
    assert [1] == cgroups.pids("/a/c1")


def test_network_counters() -> None:
    """All interfaces but lo, eth0 first and as the default one; packets and drops as metrics."""
    network, samples = network_of(DEV, 7)
    assert ["eth0", "net1"] == [interface.name for interface in network.interfaces]
    first = network.default_interface
    assert first is network.interfaces[0]
    assert (1000, 1, 2000, 3) == (first.rx_bytes, first.rx_errors, first.tx_bytes, first.tx_errors)
    counters = {
        sample.name.removeprefix("container_network_"): sample.value for sample in samples if sample.labels == ("eth0",)
    }
    assert {
        "receive_packets_total": 10,
        "receive_packets_dropped_total": 2,
        "transmit_packets_total": 20,
        "transmit_packets_dropped_total": 4,
    } == counters
    assert None is network_of("", 7)[0].default_interface


def test_open_files_are_counted() -> None:
    """Descriptors and the sockets among them are counted over all processes; one that is gone counts nothing."""

    def counts() -> list[int]:
        return [sample.value for sample in open_files([os.getpid(), 1 << 22])]

    files, sockets = counts()
    with socket.socket(), Path(os.devnull).open("rb"):
        assert [files + 2, sockets + 1] == counts()


def test_files_are_read_whole(tmp_path: Path) -> None:
    """A file longer than one read is read to its end; a missing one, or a folder, is empty."""
    (tmp_path / "long").write_text("x" * 50_000)
    assert [50_000, 0, 0] == [len(read_text(path)) for path in (tmp_path / "long", tmp_path / "none", tmp_path)]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root")
def test_a_cgroup_is_removed_with_what_runs_in_it() -> None:
    """What is left in a cgroup is killed, and the cgroup is gone from every hierarchy; one that is not there is no trouble."""
    name = f"crishim-test-{os.getpid()}"
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    groups = [Path("/sys/fs/cgroup") / name] if v2 else [Path("/sys/fs/cgroup") / kind / name for kind in ("memory", "pids")]
    for group in groups:
        group.mkdir()
    with subprocess.Popen(["sleep", "600"]) as process:
        for group in groups:
            (group / "cgroup.procs").write_text(str(process.pid))
        reaped = threading.Thread(target=process.wait)
        reaped.start()
        Cgroups(v2=v2).remove(f"/{name}")
        reaped.join(30)
        assert -signal.SIGKILL == process.returncode
    assert [] == [group for group in groups if group.exists()]
    Cgroups(v2=v2).remove(f"/{name}")


@pytest.mark.parametrize(("v2", "expected"), [(True, "a/c1/memory.max"), (False, "memory/a/c1/memory.max")])
def test_limits_are_written(tmp_path: Path, v2: bool, expected: str) -> None:
    """A file is in the one folder of v2, and on v1 in that of its controller; a cgroup that does not exist is an error."""
    (tmp_path / expected).parent.mkdir(parents=True)
    Cgroups(v2=v2, root=tmp_path).write("/a/c1", {"memory.max": "5"})
    assert "5" == (tmp_path / expected).read_text()
    with pytest.raises(FileNotFoundError):
        Cgroups(v2=v2, root=tmp_path).write("/a/c2", {"memory.max": "5"})


needs_memsw = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
    reason="needs root, and cgroup v1 with a limit of memory and swap (swapaccount=1)",
)


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A new memory cgroup of v1."""
    group = Path(f"/sys/fs/cgroup/memory/crishim-limits-{os.getpid()}")
    group.mkdir()
    yield group
    group.rmdir()


@needs_memsw
def test_limits_that_depend_on_each_other_are_written(memory_group: Path) -> None:
    """A memory limit is raised above that of memory and swap if this is raised with it."""
    for limit in ("8388608", "16777216", "4194304"):
        files = {"memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": limit}
        Cgroups(v2=False).write(memory_group.name, files)
        assert files == {file: (memory_group / file).read_text().strip() for file in files}


@needs_memsw
def test_an_invalid_limit_hides_no_other(memory_group: Path) -> None:
    """A limit that can be written after others is written, also where the kernel refuses another one, whose error is raised."""
    cgroups, names = Cgroups(v2=False), ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    cgroups.write(memory_group.name, dict.fromkeys(names, "8388608"))
    with pytest.raises(OSError, match="Invalid argument"):
        cgroups.write(memory_group.name, {"memory.swappiness": "1000", **dict.fromkeys(names, "16777216")})
    assert ["16777216"] * 2 == [(memory_group / name).read_text().strip() for name in names]


def test_processes_of_other_namespaces_have_no_number(tmp_path: Path) -> None:
    """A cgroup shows a process of another PID namespace as 0, which kill(2) takes for our own group: none is killed for it."""
    write(tmp_path / "c", cgroup__procs="0\n")
    program = (
        "import pathlib, sys; from crishim.linux.cgroups import *; Cgroups(root=pathlib.Path(sys.argv[1]), v2=1).remove('c')"
    )
    assert 0 == subprocess.run([sys.executable, "-c", program, str(tmp_path)], start_new_session=True, check=False).returncode


@pytest.mark.parametrize(
    ("controller", "v2", "expected"),
    [("pids", False, "/user/pids"), ("cpu", False, "/user/cpu"), ("pids", True, "/user/unified"), ("memory", False, "")],
)
def test_where_a_process_is(controller: str, v2: bool, expected: str) -> None:
    """Of a hybrid machine's list the requested hierarchy is used; in none of it, a process has no folder."""
    text = "12:cpu,cpuacct:/user/cpu\n9:misc,pids:/user/pids\n1:name=systemd:/user\n0::/user/unified\n"
    assert expected == own_folder(text, controller, v2=v2)


@pytest.mark.parametrize("v2", [False, True])
def test_a_process_moves_to_where_it_is(tmp_path: Path, v2: bool) -> None:
    """A move without effect uses this process's own cgroup; without one, or without permission, nothing happens."""
    cgroups = Cgroups(v2=v2, root=tmp_path)
    cgroups.move_to_own()
    own = own_folder(read_text("/proc/self/cgroup"), "pids", v2=v2)
    folder = (tmp_path if v2 else tmp_path / "pids") / own.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    cgroups.move_to_own()
    expected = {folder / "cgroup.procs": "0"} if own else {}  # a machine has one version, or both
    assert expected == {path: path.read_text() for path in tmp_path.rglob("cgroup.procs")}


@pytest.mark.parametrize(("v2", "file"), [(True, "memory.events"), (False, "memory.oom_control")])
def test_kills_for_want_of_memory_are_counted(tmp_path: Path, v2: bool, file: str) -> None:
    """A cgroup reports whether any of its processes was killed; a removed one reports nothing."""
    cgroups = Cgroups(v2=v2, root=tmp_path)
    folder = (tmp_path if v2 else tmp_path / "memory") / "c1"
    assert not cgroups.killed_for_memory("/c1")
    folder.mkdir(parents=True)
    (folder / file).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert not cgroups.killed_for_memory("/c1")
    (folder / file).write_text("oom 3\noom_kill 2\noom_group_kill 0\n")
    assert cgroups.killed_for_memory("/c1")


def test_processes_below_count(tmp_path: Path) -> None:
    """Crun keeps a container in a cgroup of its own below systemd's scope: its processes are the scope's, too."""
    write(tmp_path, **{"a.scope/cgroup__procs": "", "a.scope/container/cgroup__procs": "5\n6\n"})
    cgroups = Cgroups(v2=True, root=tmp_path)
    assert ([5, 6], "5\n6\n") == (cgroups.pids("/a.scope"), cgroups.reader("/a.scope")("cgroup.procs"))


def test_killing_everybody_is_refused(tmp_path: Path) -> None:
    """The root cgroup is never killed."""
    write(tmp_path, cgroup__procs=str(os.getpid()))
    Cgroups(v2=True, root=tmp_path).kill("/")
    assert not (tmp_path / "cgroup.kill").exists()


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd is here: the guest's tests move real processes")
async def test_a_scope_without_systemd() -> None:
    """Without a systemd that creates scopes the refusal names that."""
    with pytest.raises((FailedPrecondition, Unknown)):
        await start_scope("crishim-test.scope", "system.slice", os.getpid())


def test_a_cgroup_that_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cgroup that its runtime removes during the iteration has no process left to kill."""
    group = tmp_path / "memory" / "pod" / "c"
    group.mkdir(parents=True)

    def removed(*_: object) -> list[Path]:
        raise FileNotFoundError(2, "removed meanwhile")

    monkeypatch.setattr(Path, "rglob", removed)
    Cgroups(v2=False, root=tmp_path).kill("/pod/c")
    assert "" == read_text(group / "cgroup.procs")
