"""The named pipes of a task or an exec, with our ends of them, and the pipe of the shim's log.

A shim opens its ends at Create or at Start, depending on the shim. Until then `Fifos` keeps a writing end of the outputs open,
or their readers would see an end before anything is written; `release` closes it. stdin is opened for reading and writing,
since a writer alone cannot be opened before there is a reader, and only once, since a second writer would keep the shim from
seeing the end.

The named pipe `log` is in a sandbox's bundle: a shim opens it at its start, and blocks without a reader.
"""

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs

from crishim.errors import ResourceExhausted
from crishim.logs.stdio import ForeignStreams
from crishim.model.process import TerminalSize

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


@attrs.frozen(kw_only=True)
class FifoPaths:
    """The paths of the pipes; empty for a stream that was not requested."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""


def paths_in(folder: Path, *, stdin: bool, stderr: bool) -> FifoPaths:
    """The paths of the requested pipes in `folder`; with a terminal there is no stderr."""
    return FifoPaths(
        stdin=str(folder / "0") if stdin else "", stdout=str(folder / "1"), stderr=str(folder / "2") if stderr else ""
    )


class Fifos:
    """Our ends of the pipes at `paths`."""

    def __init__(self, paths: FifoPaths) -> None:
        self.paths = paths
        self._writers: list[int] = []

    def make(self) -> None:
        """Create the pipes, replacing older ones. Raises `ResourceExhausted`."""
        try:
            for path in filter(None, attrs.astuple(self.paths)):
                folder = Path(path).parent
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                Path(path).unlink(missing_ok=True)
                os.mkfifo(path, 0o600)
        except OSError as error:
            raise ResourceExhausted(f"no named pipes: {error}") from error

    def open(
        self,
        *,
        resize: Callable[[TerminalSize], Awaitable[None]],
        stdin_ended: Callable[[], Awaitable[None]],
        hold: bool,
    ) -> ForeignStreams:
        """Open our ends, which the caller then owns. With `hold` the outputs have no end before `release`.

        Raises `ResourceExhausted`, and then leaves nothing open.
        """
        paths = self.paths
        with contextlib.ExitStack() as undo:
            opened = {
                "stdin": self._open(paths.stdin, os.O_RDWR, undo),
                "stdout": self._open(paths.stdout, os.O_RDONLY, undo),
                "stderr": self._open(paths.stderr, os.O_RDONLY, undo),
            }
            if hold:
                ends = [self._open(path, os.O_WRONLY, undo) for path in (paths.stdout, paths.stderr)]
                self._writers = [end for end in ends if end is not None]
            undo.pop_all()
        return ForeignStreams(**opened, resize=resize, stdin_ended=stdin_ended)

    @property
    def writers(self) -> tuple[int, ...]:
        """The writing ends of the outputs that `open` has opened, until `release`."""
        return tuple(self._writers)

    def release(self) -> None:
        """Close the writing ends of the outputs, since the shim has opened its own: from now on its close is the end. May be
        called twice.
        """
        writers, self._writers = self._writers, []
        for fd in writers:
            os.close(fd)

    def remove(self) -> None:
        """Close the writing ends, and remove the pipes with their folder."""
        self.release()
        for path in filter(None, attrs.astuple(self.paths)):
            shutil.rmtree(Path(path).parent, ignore_errors=True)

    def _open(self, path: str, mode: int, undo: contextlib.ExitStack) -> int | None:
        if not path:
            return None
        try:
            fd = os.open(path, mode | _FLAGS)
        except OSError as error:
            raise ResourceExhausted(f"the named pipe {path} cannot be opened: {error.strerror}") from error
        undo.callback(os.close, fd)
        return fd


_log = logging.getLogger(__name__)

_PIECE = 1 << 16


class ShimLog:
    """Copies a shim's log to our own, at level DEBUG. For use on one event loop."""

    def __init__(self, bundle: Path) -> None:
        self._fd = -1
        self._path = bundle / "log"
        self._rest = b""

    def open(self) -> None:
        """Create the pipe if it is missing, and read it. A failure is only logged."""
        try:
            if not self._path.exists():
                os.mkfifo(self._path, 0o600)
            # Opened for writing too, so that the pipe has no end when a writer closes it.
            self._fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            _log.warning("a shim's log cannot be read: %s", error)
            return
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        """Stop reading. May be called twice."""
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
