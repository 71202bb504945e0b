"""One task of containerd's: what Create asks for, its processes, and what is told of it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from crishim.interfaces.oci_runtime import OciRuntime, OciStatus
from crishim.model.process import Exit
from crishim.shimv2.server.leftovers import NONE, Key
from crishim.shimv2.server.pipes import IoPaths, Pipes
from crishim.shimv2.server.rootfs import RootMount


@attrs.frozen(kw_only=True)
class Creation:
    """What Create asks for. `options` is what the runtime was configured with in containerd, by type and value."""

    bundle: Path
    mounts: tuple[RootMount, ...] = ()
    io: IoPaths = IoPaths()
    options: tuple[str, bytes] = NONE


@attrs.define(eq=False)
class Process:
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
    main: Process
    execs: dict[str, Process] = attrs.field(factory=dict)
    turn: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    killing: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    copying: "asyncio.Task[None] | None" = None

    @property
    def id(self) -> str:
        """Its id in its namespace."""
        return self.key[1]


class News:
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
