"""The named pipe `log` in a sandbox's bundle: a shim opens it at its start, and stands still when nobody empties it."""

import asyncio
import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)

_PIECE = 1 << 16


class ShimLog:
    """Empties a shim's log into our own, at level DEBUG. For use on one event loop."""

    def __init__(self, bundle: Path) -> None:
        self._fd = -1
        self._path = bundle / "log"
        self._rest = b""

    def open(self) -> None:
        """Make the pipe where it is missing, and read it. Never raises for the log's sake."""
        try:
            if not self._path.exists():
                os.mkfifo(self._path, 0o600)
            # For writing, too: so there is never an end, whoever comes and goes.
            self._fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            _log.warning("a shim's log cannot be read: %s", error)
            return
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        """Read no more. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _PIECE)
        except OSError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:_PIECE]
        for line in lines:
            _log.debug("shim: %s", line.decode("utf-8", "replace"))
