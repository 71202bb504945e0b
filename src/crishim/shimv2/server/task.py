"""The named pipes that containerd makes for a task or an exec, and our ends of them.

stdin stays open for writing until `close_stdin`: whoever writes may come and go, and the process must not see an end before
containerd says so. That of an exec is opened with its start and not before: a client whose first write passes while it still
waits for Exec may be at the end of its input before it can ask for CloseIO, as `ctr` does, and will never ask. Outputs
are opened for reading, too, since otherwise the open would wait for a reader, and a write fail while containerd is away. Paths
with a scheme other than `fifo` are refused: nothing here is a logging driver.

What outlives this process of its tasks: what containerd configured the runtime of each with, and where its bundle lies.

The first is kept in the bundle: the binary's `delete` is asked without it, and maybe of another daemon than the one that made
the task. It is asked after a clean end, too: then nothing is kept any more, and nothing need be freed. The second is a link in
a folder of our own: the next daemon frees what this one leaves, whether or not containerd asks.

One task of containerd's: what Create asks for, its processes, and what is told of it.
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
"""Containerd's namespace, and the task's id."""

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
        self._stdin_closed = False
        self._reader: DescriptorReader | None = None
        self._writers: list[DescriptorWriter] = []
        self._sizes: asyncio.Queue[TerminalSize] = asyncio.Queue()

    def hold(self) -> None:
        """Keep stdin from ending. Raises `InvalidArgument` where the pipe is not there."""
        if self.paths.stdin and self._held is None and not self._stdin_closed:
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
        self._stdin_closed = True
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


@attrs.frozen(kw_only=True)
class Creation:
    """What Create asks for. `options` is what the runtime was configured with in containerd, by type and value."""

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
    turn: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    killing: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    copying: "asyncio.Task[None] | None" = None

    @property
    def id(self) -> str:
        """Its id in its namespace."""
        return self.key[1]


class TaskEvents:
    """What is told of tasks; every method may be called with the loop running, and returns at once."""

    def created(self, task: Task, creation: Creation) -> None:
        """The task is there."""

    def started(self, task: Task) -> None:
        """Its process runs."""

    def exec_added(self, task: Task, exec_id: str) -> None:
        """An exec is there."""

    def exec_started(self, task: Task, exec_id: str, pid: int) -> None:
        """An exec's process runs."""

    def exited(self, task: Task, exec_id: str, pid: int, end: Exit) -> None:
        """A process has ended: the task's own, or the exec's of this id."""

    def deleted(self, task: Task, end: Exit) -> None:
        """The task is gone."""

    def paused(self, task: Task, *, paused: bool) -> None:
        """The task was frozen, or goes on."""


NAME: Final = "crishim-task.json"


class TaskRecords:
    """The tasks of a daemon, below `folder`: NAMESPACE/ID leads to a task's bundle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, key: Key, bundle: Path, options: tuple[str, bytes]) -> None:
        """Write a task's options, by type and value, before anything of it is made."""
        kind, value = options
        link = self._folder.joinpath(*key)
        link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        link.unlink(missing_ok=True)
        link.symlink_to(bundle)
        write_atomically(bundle / NAME, json.dumps({"type": kind, "value": base64.b64encode(value).decode()}))

    def options(self, bundle: Path) -> tuple[str, bytes] | None:
        """What was written; `NONE` where that is nothing that can be read, None where the bundle says that there is nothing."""
        if bundle.exists() and not (bundle / NAME).exists():
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads((bundle / NAME).read_text(encoding="utf-8"))
            return str(told["type"]), base64.b64decode(told["value"], validate=True)
        return NONE

    def forget(self, key: Key, bundle: Path) -> None:
        """All is freed."""
        (bundle / NAME).unlink(missing_ok=True)
        self._folder.joinpath(*key).unlink(missing_ok=True)

    def left(self) -> dict[Key, Path]:
        """The bundles of those that are not forgotten."""
        return {(link.parent.name, link.name): link.readlink() for link in self._folder.glob("*/*") if link.is_symlink()}
