"""The file to which log lines are written."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from crishim.errors import FailedPrecondition, from_os_error
from crishim.logs.appending import append, open_log

_log = logging.getLogger(__name__)


class LogFile:
    """A log file at `path`, mode 0640, to which whole lines are appended; missing parent folders are created.

    Calls block for as long as a write into the page cache takes. A symbolic link at `path` is refused, and opening does not
    block on a special file (a named pipe). Raises `PermissionDenied`, `ResourceExhausted` or `Unknown`, naming the path, if
    the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failing = False
        with self._renaming():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd: int | None = open_log(str(self._path))

    def append(self, lines: bytes) -> None:
        """Append lines, each with its newline. A failed write is logged, not raised.

        Lines that cannot be written (the disk is full) are lost, which is logged once; a partly written line is removed. The
        next call writes again.
        """
        if self._fd is None or not lines:
            return
        error = append(self._fd, lines)
        if error is not None and not self._failing:
            _log.warning("output of a container is lost: %s: %s", self._path, error.strerror)
        self._failing = error is not None

    def reopen(self) -> None:
        """Continue in a new file at the same path, which exists on return.

        After an error no new file is left, and the old one is still written to: the kubelet then renames it back (its
        container log manager). Parent folders are not created again.
        """
        if self._fd is None:
            raise FailedPrecondition("closed", "open", f"the log {self._path}")
        with self._renaming():
            fd = open_log(str(self._path))
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        """Stop writing. May be called twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    @contextlib.contextmanager
    def _renaming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise from_os_error(error, f"the log {self._path} cannot be opened") from error
