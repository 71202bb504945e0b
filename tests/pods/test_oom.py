"""Whether a container was killed for want of memory, by counters."""

from pathlib import Path

from crishim.linux.cgroups import Cgroups
from crishim.pods.oom import may_have_killed


def test_kills_of_a_removed_cgroup(tmp_path: Path) -> None:
    """A container's own counter is decisive; once its cgroup is removed, that of its pod counts, and none of all pods."""
    cgroups = Cgroups(v2=True, root=tmp_path)
    scope = tmp_path / "a.slice/a-pod.slice/crishim-c1.scope"
    scope.mkdir(parents=True)
    for folder in (tmp_path / "system.slice", tmp_path / "crishim", scope.parent):
        folder.mkdir(exist_ok=True)
        (folder / "memory.events").write_text("oom_kill 1\n")
    (scope / "memory.events").write_text("oom_kill 0\n")
    assert not may_have_killed(cgroups, "a-pod.slice:crishim:c1")
    assert may_have_killed(cgroups, "a-pod.slice:crishim:removed")
    others = ("system.slice:crishim:removed", "/crishim/removed", "")
    assert [False, False, False] == [may_have_killed(cgroups, path) for path in others]
