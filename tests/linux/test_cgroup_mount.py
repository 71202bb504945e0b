"""The options of the node's cgroup mount."""

import subprocess
import sys

import pytest

from tests.backends.runc.world import needs

SCRIPT = """
import sys
from pathlib import Path
from crishim.linux.cgroup_mount import CgroupMount
from crishim.linux.mounts import MS_NODEV, MS_NOSUID, MS_REMOUNT, mount, mount_of, read_mounts

def options():
    found = mount_of(folder, read_mounts())
    return "nsdelegate" in found.super_options, *sorted({"nosuid", "nodev"} & {*found.options})

folder, flags = Path(sys.argv[1]), MS_NODEV | MS_NOSUID
mount("cgroup", folder, "cgroup2", flags)
before = options()[0]
mount("", folder, "", MS_REMOUNT | flags, "nsdelegate")
kept = CgroupMount(folder)
mount("", folder, "", MS_REMOUNT | flags)
print(*options())
kept.restore()
print(*options())
mount("", folder, "", MS_REMOUNT | flags, "nsdelegate" if before else "")
"""
"""The option is the whole node's, and is set at the end as it was."""


@pytest.mark.node
@needs("unshare", "mount")
def test_lost_options_are_set_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An option that the file system has lost is set again, with the flags of the mount."""
    folder = tmp_path_factory.mktemp("cgroup")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", SCRIPT, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ["False nodev nosuid", "True nodev nosuid"] == done.stdout.splitlines(), done.stderr
