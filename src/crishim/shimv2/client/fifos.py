"""The named pipes of a task or an exec, and our ends of them.

A shim opens its ends when it likes: some at Create, some at Start. Until then somebody must hold a writing end of the outputs,
or their readers are at an end before anything was written: `Fifos` does, until `release`. stdin is opened for reading and
writing, since a writer alone cannot be opened before there is a reader, and only once, since a second writer would keep a shim
from ever seeing the end.

The named pipe `log` in a sandbox's bundle: a shim opens it at its start, and stands still when nobody empties it.
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
    """Where the pipes lie; empty for those that there are not."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""


def paths_in(folder: Path, *, stdin: bool, stderr: bool) -> FifoPaths:
    """The paths of the pipes that are requested for; with a terminal there is no stderr."""
    return FifoPaths(
        stdin=str(folder / "0") if stdin else "", stdout=str(folder / "1"), stderr=str(folder / "2") if stderr else ""
    )


class Fifos:
    """Our ends of the pipes at `paths`."""

    def __init__(self, paths: FifoPaths) -> None:
        self.paths = paths
        self._held: list[int] = []

    def make(self) -> None:
        """Make the pipes. What is left of earlier ones is thrown away. Raises `ResourceExhausted`."""
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
        """Open our ends, which are the caller's from now on. With `hold` the outputs have no end before `release`.

        Raises `ResourceExhausted`, and leaves nothing open then.
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
                self._held = [end for end in ends if end is not None]
            undo.pop_all()
        return ForeignStreams(**opened, resize=resize, stdin_ended=stdin_ended)

    def release(self) -> None:
        """The shim has its ends: when it lets go of them, that is the end. May be called twice."""
        held, self._held = self._held, []
        for fd in held:
            os.close(fd)

    def remove(self) -> None:
        """Let go of what is held, and remove the pipes with their folder."""
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
