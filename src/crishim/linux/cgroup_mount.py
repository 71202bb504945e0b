"""The node's mount of cgroup v2, whose options any mount of cgroup2 without options takes away.

They are the file system's, and not one mount's: CRIU mounts it for itself, and the whole node loses `nsdelegate` and
`memory_recursiveprot`, which systemd has set. Only a process of the initial cgroup namespace can set them again (cgroup-v2.rst,
Mounting).
"""

from pathlib import Path
from typing import Final

from crishim.linux.mount_options import parse_options
from crishim.linux.mounts import MS_REMOUNT, MountPoint, mount, mount_of, read_mounts

_ROOT: Final = Path("/sys/fs/cgroup")


class CgroupMount:
    """The options as they were when this object was made."""

    def __init__(self, path: Path = _ROOT) -> None:
        self._path = path
        self._before = self._now()

    def _now(self) -> MountPoint | None:
        found = mount_of(self._path, read_mounts()) if self._path.exists() else None
        return found if found is not None and found.kind == "cgroup2" else None

    def restore(self) -> None:
        """Set the options again if one is missing. Blocks. Raises the errors of `mount`."""
        now = self._now()
        if self._before is not None and now is not None and set(self._before.super_options) - set(now.super_options):
            flags, _ = parse_options(self._before.options)
            _, data = parse_options(self._before.super_options)
            mount("", self._path, "", MS_REMOUNT | flags, ",".join(data))
