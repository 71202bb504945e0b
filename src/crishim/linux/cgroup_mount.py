"""The node's mount of cgroup v2, whose options any mount of cgroup2 without options takes away.

They are the file system's, and not one mount's: CRIU mounts it for itself, and the whole node loses `nsdelegate` and
`memory_recursiveprot`, which systemd has set. Only a process of the initial cgroup namespace can set them again (cgroup-v2.rst,
Mounting).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from crishim.errors import CrishimError
from crishim.linux.mount_options import parse_options
from crishim.linux.mounts import MS_REMOUNT, MountPoint, mount, read_mounts

_log = logging.getLogger(__name__)


class CgroupMount:
    """The options of the node's mount. For one event loop."""

    def __init__(self) -> None:
        self._users = 0
        self._before: MountPoint | None = None

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Set the options again at the end that were set at the beginning, or at that of another block under way."""
        if not self._users:
            self._before = await asyncio.to_thread(first_mount)
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._before is not None:
                await asyncio.to_thread(restore, self._before)


def first_mount() -> MountPoint | None:
    """The first mount of cgroup v2 in this mount namespace: on a hybrid node it is below the others."""
    return next((each for each in read_mounts() if each.kind == "cgroup2"), None)


def restore(before: MountPoint) -> None:
    """Set a mount's options again if one is missing. A failure is logged: what was done meanwhile is done."""
    now = next((each for each in read_mounts() if each.id == before.id), None)
    if now is None or not set(before.super_options) - set(now.super_options):
        return
    flags, _ = parse_options(before.options)
    _, data = parse_options(before.super_options)
    try:
        mount("", before.path, "", MS_REMOUNT | flags, ",".join(data))
    except CrishimError as error:
        _log.warning("the options of %s are lost: %s", before.path, error)
