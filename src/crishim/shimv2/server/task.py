"""One task of containerd: its request, its processes and named pipes, the receiver of its events, and its records on disk.

containerd creates the named pipes. stdin stays open for writing until `close_stdin`: clients may attach and detach, and the
process must not see an end before containerd requests it. An exec's stdin is opened at its start and not before: `ctr` sends
CloseIO only if its input ends after Exec has returned, so an input that ends earlier must still reach the pipe's reader as an
end. Outputs are opened for reading too, since otherwise the open would wait for a reader, and a write would fail while
containerd is not running. Paths with a scheme other than `fifo` are refused: there are no logging drivers.

`TaskRecords` is what outlives this process. The options of a task are in its bundle: the binary's `delete` runs without them,
perhaps with another daemon than the one that created the task. `delete` also runs after a clean end: then the record is gone,
and nothing need be freed. A link in a folder of the daemon's leads to the bundle: the next daemon frees the leftovers of this
one, whether or not containerd asks.
"""

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import InvalidArgument
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import OciRuntime, OciStatus
from crishim.logs.descriptors import DescriptorReader, DescriptorWriter
from crishim.model.process import Exit, TerminalSize
from crishim.pods.bundle import write_atomically
from crishim.shimv2.server.rootfs import RootMount

NONE: Final = ("", b"")
"""No options."""

Key = tuple[str, str]
"""Containerd's namespace and the task's id."""

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


@attrs.frozen(kw_only=True)
class IoPaths:
    """The paths of the pipes from containerd; empty for none. With a terminal there is no stderr."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


def checked(paths: IoPaths) -> IoPaths:
    """The same as plain paths. Raises `InvalidArgument` for a path that is not a pipe."""
    changed = {}
    for name in ("stdin", "stdout", "stderr"):
        path = getattr(paths, name).removeprefix("fifo://")
        if "://" in path:
            raise InvalidArgument(name, f"{path!r} is not a named pipe")
        changed[name] = path
    return attrs.evolve(paths, **changed)


class Pipes:
    """Our ends of the pipes of one process."""

    def __init__(self, paths: IoPaths) -> None:
        self.paths = checked(paths)
        self._stdin_writer: int | None = None
        self._stdin_closed = False
        self._reader: DescriptorReader | None = None
        self._writers: list[DescriptorWriter] = []
        self._sizes: asyncio.Queue[TerminalSize] = asyncio.Queue()

    def hold(self) -> None:
        """Keep stdin from ending. Raises `InvalidArgument` if the pipe does not exist."""
        if self.paths.stdin and self._stdin_writer is None and not self._stdin_closed:
            self._stdin_writer = _open(self.paths.stdin, os.O_RDWR, "stdin")

    def open(self) -> ProcessIO:
        """Open our ends, for a process whose streams are copied here. Raises `InvalidArgument`."""
        self.hold()
        if self.paths.stdin:
            self._reader = DescriptorReader(_open(self.paths.stdin, os.O_RDONLY, "stdin"))
        writers = {}
        for name in ("stdout", "stderr"):
            if path := getattr(self.paths, name):
                writers[name] = DescriptorWriter(_open(path, os.O_RDWR, name))
                self._writers.append(writers[name])
        return ProcessIO(stdin=self._reader, **writers, sizes=self._resizes() if self.paths.terminal else None)

    def resize(self, size: TerminalSize) -> None:
        """Set the terminal's size."""
        self._sizes.put_nowait(size)

    def close_stdin(self) -> None:
        """Close our writing end: the process sees the end of its input after what was written."""
        self._stdin_closed = True
        writer, self._stdin_writer = self._stdin_writer, None
        if writer is not None:
            os.close(writer)

    def close(self) -> None:
        """Close everything: readers of the outputs see their end."""
        self.close_stdin()
        if self._reader is not None:
            self._reader.close()
        for writer in self._writers:
            writer.close()

    async def _resizes(self) -> AsyncIterator[TerminalSize]:
        while True:
            yield await self._sizes.get()


def _open(path: str, flags: int, name: str) -> int:
    try:
        return os.open(path, flags | _FLAGS)
    except OSError as error:
        raise InvalidArgument(name, f"{path}: {error.strerror}") from error


@attrs.frozen(kw_only=True)
class Creation:
    """The request of a Create. `options` are the runtime's options in containerd's configuration, by type and value."""

    bundle: Path
    mounts: tuple[RootMount, ...] = ()
    io: IoPaths = IoPaths()
    options: tuple[str, bytes] = NONE


@attrs.define(eq=False)
class TaskProcess:
    """A task's first process, or an exec. `ended` is done when its exit is known."""

    pipes: Pipes
    pid: int = 0
    status: OciStatus = OciStatus.CREATED
    ended: "asyncio.Future[Exit]" = attrs.field(factory=lambda: asyncio.get_running_loop().create_future())
    spec: Mapping[str, Any] = attrs.field(factory=dict)
    work: "asyncio.Task[None] | None" = None


@attrs.define(eq=False)
class Task:
    """One bundle with its processes."""

    key: Key
    bundle: Path
    runtime: OciRuntime
    main: TaskProcess
    execs: dict[str, TaskProcess] = attrs.field(factory=dict)
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    killing: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    copying: "asyncio.Task[None] | None" = None
    sandbox: str = ""
    """The id of the sandbox to which its container belongs."""

    @property
    def id(self) -> str:
        """Its id in its namespace."""
        return self.key[1]


class TaskEvents:
    """Receives the events of tasks. Methods are called on the event loop and must return at once."""

    def created(self, task: Task, creation: Creation) -> None:
        """The task was created."""

    def started(self, task: Task) -> None:
        """Its first process was started."""

    def exec_added(self, task: Task, exec_id: str) -> None:
        """An exec was added."""

    def exec_started(self, task: Task, exec_id: str, pid: int) -> None:
        """An exec's process was started."""

    def exited(self, task: Task, exec_id: str, pid: int, end: Exit) -> None:
        """A process has exited: the task's own, or the exec's of this id."""

    def deleted(self, task: Task, end: Exit) -> None:
        """The task was deleted."""

    def paused(self, task: Task, *, paused: bool) -> None:
        """The task was paused or resumed."""


NAME: Final = "crishim-task.json"


class TaskRecords:
    """The tasks of a daemon, below `folder`: NAMESPACE/ID is a link to a task's bundle, with the options in a file `name`."""

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self._folder = folder
        self._name = name

    def save(self, key: Key, bundle: Path, options: tuple[str, bytes]) -> None:
        """Write a task's options, by type and value, before anything of the task is created."""
        kind, value = options
        link = self._folder.joinpath(*key)
        link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        link.unlink(missing_ok=True)
        link.symlink_to(bundle)
        write_atomically(bundle / self._name, json.dumps({"type": kind, "value": base64.b64encode(value).decode()}))

    def options(self, bundle: Path) -> tuple[str, bytes] | None:
        """The stored options; `NONE` if they cannot be read, None if the bundle has no record."""
        if bundle.exists() and not (bundle / self._name).exists():
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads((bundle / self._name).read_text(encoding="utf-8"))
            return str(stored["type"]), base64.b64decode(stored["value"], validate=True)
        return NONE

    def forget(self, key: Key, bundle: Path) -> None:
        """Delete the record: everything of the task is freed."""
        (bundle / self._name).unlink(missing_ok=True)
        self._folder.joinpath(*key).unlink(missing_ok=True)

    def has(self, key: Key) -> bool:
        """Whether a task has a record."""
        return self._folder.joinpath(*key).is_symlink()

    def left(self) -> dict[Key, Path]:
        """The bundles of the tasks with a record."""
        return {(link.parent.name, link.name): link.readlink() for link in self._folder.glob("*/*") if link.is_symlink()}
