"""Out-of-memory kills by the counters of cgroups, where the kernel's log does not tell."""

import posixpath
from typing import Final

from crishim.linux.cgroups import Cgroups, folder_of
from crishim.oci.resources import DEFAULT_PARENT

_OF_MANY: Final = frozenset({"/", "/system.slice", DEFAULT_PARENT})
"""Parents of several pods, whose counters say nothing of one."""


def may_have_killed(cgroups: Cgroups, cgroups_path: str) -> bool:
    """Whether the out-of-memory killer has killed a process of a container's cgroup (linux.cgroupsPath) or, once that is gone,
    of its pod's: on cgroup v2 a cgroup counts for those below it. False without a pod's cgroup.
    """
    folder = folder_of(cgroups_path)
    counted = folder if cgroups.exists(folder) else posixpath.dirname(folder)
    return counted not in _OF_MANY and cgroups.killed_for_memory(counted)
