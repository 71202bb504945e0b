"""Monitors under systemd: each has a scope in the slice of its pod; in the service's cgroup it would be stopped with the
service.
"""

import asyncio
import contextlib
import logging
import posixpath
from pathlib import Path
from typing import Final

from crishim.errors import CrishimError, DataLoss
from crishim.linux import processes
from crishim.linux.cgroups import Cgroups, slice_folder, start_scope, stop_unit
from crishim.monitor.client import monitor_of
from crishim.pods.bundle import read_config

_log = logging.getLogger(__name__)

_ENDED_WITHIN: Final = 2.0
"""Seconds within which a monitor must end after its container was deleted."""

_TRIES: Final = 8
_PAUSE: Final = 0.025
"""The number of checks whether systemd has removed a scope, and the seconds between them."""


class MonitorScopes:
    """The scopes of one runtime's monitors."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._moving: dict[str, asyncio.Task[None]] = {}

    def begin(self, container_id: str, bundle: Path) -> None:
        """Move the monitor of a new container into its scope, in the background."""
        self._moving[container_id] = asyncio.create_task(self._move(container_id, bundle), name=f"scope of {container_id}")

    async def end(self, container_id: str, bundle: Path) -> None:
        """Remove the scope: systemd does so when the monitor has ended, unless the monitor was moved too late."""
        if not (slice_name := _slice(bundle)):
            return
        folder = posixpath.join(slice_folder(slice_name), _scope(container_id))
        if (moving := self._moving.pop(container_id, None)) is not None:
            await asyncio.shield(moving)
        if (monitor := monitor_of(bundle, container_id)) is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENDED_WITHIN):
                    await processes.ended(monitor)
        for _ in range(_TRIES):
            if not self._cgroups.exists(folder):
                return
            await asyncio.sleep(_PAUSE)
        try:
            await stop_unit(_scope(container_id))
        except CrishimError as error:
            _log.debug("the scope of the monitor of container %s: %s", container_id, error)

    async def _move(self, container_id: str, bundle: Path) -> None:
        monitor = monitor_of(bundle, container_id)
        if monitor is None:
            return
        try:
            await start_scope(_scope(container_id), _slice(bundle), monitor.pid)
        except CrishimError as error:
            _log.warning("the monitor of container %s stays in the cgroup of this process: %s", container_id, error)


def _scope(container_id: str) -> str:
    return f"crishim-conmon-{container_id}.scope"


def _slice(bundle: Path) -> str:
    """The slice of a bundle's container; empty if its creation was interrupted before config.json was written."""
    try:
        path: str = read_config(bundle).get("linux", {}).get("cgroupsPath", "")
    except DataLoss:
        return ""
    return path.partition(":")[0] or "system.slice"
