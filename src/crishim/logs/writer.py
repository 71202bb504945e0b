"""The file to which log lines are written."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crishim.errors import FailedPrecondition, from_os_error

MODE: Final = 0o640

_log = logging.getLogger(__name__)

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


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
            self._fd: int | None = self._open()

    def append(self, lines: bytes) -> None:
        """Append lines, each with its newline. A failed write is logged, not raised.

        Lines that cannot be written (the disk is full) are lost, which is logged once; a partly written line is removed. The
        next call writes again.
        """
        if self._fd is None or not lines:
            return
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self._take_back(lines[: len(lines) - len(rest)])
            if not self._failing:
                _log.warning("output of a container is lost: %s: %s", self._path, error.strerror)
            self._failing = True
        else:
            self._failing = False

    def reopen(self) -> None:
        """Continue in a new file at the same path, which exists on return.

        After an error no new file is left, and the old one is still written to: the kubelet then renames it back (its
        container log manager). Parent folders are not created again.
        """
        if self._fd is None:
            raise FailedPrecondition("closed", "open", f"the log {self._path}")
        with self._renaming():
            fd = self._open()
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        """Stop writing. May be called twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _open(self) -> int:
        try:
            fd = os.open(self._path, _FLAGS | os.O_CREAT | os.O_EXCL, MODE)
        except FileExistsError:
            return os.open(self._path, _FLAGS)
        try:
            os.fchmod(fd, MODE)
        except OSError:
            os.close(fd)
            self._path.unlink(missing_ok=True)
            raise
        return fd

    def _take_back(self, written: bytes) -> None:
        torn = len(written) - (written.rfind(b"\n") + 1)
        if torn and self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - torn)

    @contextlib.contextmanager
    def _renaming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise from_os_error(error, f"the log {self._path} cannot be opened") from error
