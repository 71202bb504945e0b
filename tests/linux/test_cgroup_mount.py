"""The options of the node's cgroup mount."""

import subprocess
import sys

import pytest

from tests.backends.runc.world import needs

SCRIPT = """
import sys
from pathlib import Path
import asyncio
from crishim.linux.cgroup_mount import CgroupMount
from crishim.linux.mounts import MS_NODEV, MS_NOSUID, MS_REMOUNT, mount, mount_of, read_mounts, unmount

def options():
    found = mount_of(folder, read_mounts())
    return "nsdelegate" in found.super_options, *sorted({"nosuid", "nodev"} & {*found.options})

async def lose():
    mounts = CgroupMount()
    async with mounts.kept(), mounts.kept():
        mount("", folder, "", MS_REMOUNT | flags)
        print(*options())

folder, flags = Path(sys.argv[1]), MS_NODEV | MS_NOSUID
before = next((each.super_options for each in read_mounts() if each.kind == "cgroup2"), ("rw",))
for each in [each for each in read_mounts() if each.kind == "cgroup2"]:
    unmount(each.path)  # in this mount namespace
mount("cgroup", folder, "cgroup2", flags)
try:
    mount("", folder, "", MS_REMOUNT | flags, "nsdelegate")
    asyncio.run(lose())
    print(*options())
finally:
    mount("", folder, "", MS_REMOUNT | flags, ",".join(option for option in before if option not in {"rw", "ro"}))
"""
"""The options are the whole node's, and are set at the end as they were."""


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
