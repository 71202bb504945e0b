"""The named pipes that containerd makes for a task or an exec, and our ends of them.

stdin is held open for writing until `close_stdin`: whoever writes may come and go, and the process must not see an end before
containerd says so. Outputs are opened for reading, too, since otherwise the open would wait for a reader, and a write fail
while containerd is away. Paths with a scheme other than `fifo` are refused: nothing here is a logging driver.
"""

import asyncio
import os
from collections.abc import AsyncIterator

import attrs

from crishim.errors import InvalidArgument
from crishim.interfaces.capabilities import ProcessIO
from crishim.logs.descriptors import DescriptorReader, DescriptorWriter
from crishim.model.process import TerminalSize

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


@attrs.frozen(kw_only=True)
class IoPaths:
    """As containerd names them; empty for none. With a terminal there is no stderr."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


def checked(paths: IoPaths) -> IoPaths:
    """The same as plain paths. Raises `InvalidArgument` for what is no pipe."""
    changed = {}
    for name in ("stdin", "stdout", "stderr"):
        path = getattr(paths, name).removeprefix("fifo://")
        if "://" in path:
            raise InvalidArgument(name, f"{path!r} is no named pipe")
        changed[name] = path
    return attrs.evolve(paths, **changed)


class Pipes:
    """Our ends for one process."""

    def __init__(self, paths: IoPaths) -> None:
        self.paths = checked(paths)
        self._held: int | None = None
        self._reader: DescriptorReader | None = None
        self._writers: list[DescriptorWriter] = []
        self._sizes: asyncio.Queue[TerminalSize] = asyncio.Queue()

    def hold(self) -> None:
        """Keep stdin from ending. Raises `InvalidArgument` where the pipe is not there."""
        if self.paths.stdin and self._held is None:
            self._held = _open(self.paths.stdin, os.O_RDWR, "stdin")

    def open(self) -> ProcessIO:
        """Our ends, for a process whose streams are copied here. Raises `InvalidArgument`."""
        self.hold()
        if self.paths.stdin:
            self._reader = DescriptorReader(_open(self.paths.stdin, os.O_RDONLY, "stdin"))
        made = {}
        for name in ("stdout", "stderr"):
            if path := getattr(self.paths, name):
                made[name] = DescriptorWriter(_open(path, os.O_RDWR, name))
                self._writers.append(made[name])
        return ProcessIO(stdin=self._reader, **made, sizes=self._told() if self.paths.terminal else None)

    def resize(self, size: TerminalSize) -> None:
        """The terminal's size from now on."""
        self._sizes.put_nowait(size)

    def close_stdin(self) -> None:
        """Nobody else will write: the process sees the end once what was written is read."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def close(self) -> None:
        """Let go of everything: whoever reads the outputs sees their end."""
        self.close_stdin()
        if self._reader is not None:
            self._reader.close()
        for writer in self._writers:
            writer.close()

    async def _told(self) -> AsyncIterator[TerminalSize]:
        while True:
            yield await self._sizes.get()


def _open(path: str, flags: int, name: str) -> int:
    try:
        return os.open(path, flags | _FLAGS)
    except OSError as error:
        raise InvalidArgument(name, f"{path}: {error.strerror}") from error
