"""ShimTask: one task of a shim, with its streams and its exit."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
from google.protobuf.any_pb2 import Any as AnyMessage

from crishim.errors import CrishimError, DeadlineExceeded, NotFound, Unknown
from crishim.interfaces.keeper import Keeper
from crishim.interfaces.oci_runtime import FIRST_PROCESS, Stdio
from crishim.interfaces.seats import Clock
from crishim.linux import processes
from crishim.linux.oom import killed_for_memory
from crishim.logs.stdio import ContainerStdio, ForeignStreams
from crishim.model.process import Exit, TerminalSize
from crishim.shimv2.client.connection import ShimLink
from crishim.shimv2.client.fifos import FifoPaths, Fifos, paths_in
from crishim.shimv2.client.files import SandboxFolder, TaskRecord
from crishim.shimv2.client.streams import LocalStreams, RemoteStreams, TaskStreams

_log = logging.getLogger(__name__)

T = TypeVar("T")

_NO_FIFOS: Final = FifoPaths()

_HUNG_UP: Final = "EOF"
"""The end of kata's message when the connection to its guest was closed during a call: it has no code of its own."""

_PAUSE: Final = 0.1

_SIGKILL: Final = 128 + 9

_EVENT_SOON: Final = 0.2
_EVENT_LATE: Final = 1.0
"""Seconds to wait for the event of an out-of-memory kill, which arrives separately from the exit: late on a busy node."""


@attrs.frozen
class _CreateOptions:
    """The attributes of a container that `ContainerStdio` reads."""

    id: str
    log_path: str
    stdin: bool
    stdin_once: bool
    tty: bool


class ShimTask:
    """A task. `end` is done when it has exited, and all its output is written."""

    def __init__(self, record: TaskRecord, folder: SandboxFolder, clock: Clock, keeper: Keeper | None = None) -> None:
        self.record = record
        self.link: ShimLink | None = None
        self.end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.oom = asyncio.Event()
        self.oom_kills = 0
        self.killed = False
        """Whether this side has killed the task: then its SIGKILL did not come from the out-of-memory killer."""
        self.watch: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._folder = folder
        self._clock = clock
        self._keeper = keeper
        self._fifos = Fifos(_paths(folder, record))
        self.streams: TaskStreams | None = None
        if keeper is not None and self.paths != _NO_FIFOS:
            ends = ForeignStreams(resize=self._resize, stdin_ended=self._stdin_ended)
            self.streams = RemoteStreams(keeper, self.id, ends, stdin_once=record.stdio.stdin_once)

    @property
    def id(self) -> str:
        """The container's id."""
        return self.record.id

    @property
    def paths(self) -> FifoPaths:
        """The paths of its named pipes."""
        return self._fifos.paths

    async def make_streams(self) -> None:
        """Create the pipes, and open our ends and the log. Raises as `Fifos`, `LogFile` and `Keeper.adopt` do."""
        if self.paths != _NO_FIFOS:
            self._fifos.make()
            await self.open_streams(hold=True)

    async def open_streams(self, *, hold: bool) -> None:
        """Open our ends of existing pipes, and the log; with `hold` if the shim may not have opened its ends.

        Streams that the keeper has from before a restart are left as they are.
        """
        if self.paths == _NO_FIFOS:
            return
        if self._keeper is not None:
            await self._open_in(self._keeper, hold=hold)
            return
        requested = self.record.stdio
        stdio = ContainerStdio(
            _CreateOptions(self.id, requested.log_path, requested.keep_stdin, requested.stdin_once, requested.terminal),
            self._clock,
        )
        foreign = self._fifos.open(resize=self._resize, stdin_ended=self._stdin_ended, hold=hold)
        try:
            stdio.adopt(foreign)
        except BaseException:
            self._fifos.release()
            raise
        self.streams = LocalStreams(stdio)

    async def _open_in(self, keeper: Keeper, *, hold: bool) -> None:
        requested = self.record.stdio
        if self.id in await keeper.containers():
            return
        opened = self._fifos.open(resize=self._resize, stdin_ended=self._stdin_ended, hold=hold)
        given = {"stdin": opened.stdin, "stdout": opened.stdout, "stderr": opened.stderr}
        fds = {name: fd for name, fd in given.items() if fd is not None}
        try:
            writers = self._fifos.writers
            await keeper.adopt(self.id, fds, writers=writers, log_path=requested.log_path, stdin_once=requested.stdin_once)
        finally:
            self._fifos.release()
            for fd in fds.values():
                os.close(fd)

    async def create(self, link: ShimLink, options: AnyMessage | None) -> int:
        """Create the task in the shim; return the pid.

        Repeated once if the guest's agent has closed the connection, as kata's does when another container ends meanwhile.
        """
        bundle, terminal = Path(self.record.bundle), self.record.stdio.terminal
        try:
            return await link.create(self.id, bundle, self.paths, options, terminal=terminal)
        except Unknown as error:
            if not error.message.endswith(_HUNG_UP):
                raise
            _log.warning("retrying the creation of %s: %s", self.id, error)
        await asyncio.sleep(_PAUSE)
        return await link.create(self.id, bundle, self.paths, options, terminal=terminal)

    async def steadily(self, call: Coroutine[None, None, T]) -> T:
        """Make a call that changes the task. It continues when the caller is cancelled, since a shim has no cancellation;
        `settle` waits for it.
        """
        begun = asyncio.create_task(call)
        self._calls.add(begun)
        begun.add_done_callback(self._done)
        return await asyncio.shield(begun)

    def _done(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # marks the error as seen, since the caller may have been cancelled

    async def settle(self, timeout: float) -> None:
        """Return when no abandoned call is under way any more. Raises `DeadlineExceeded`."""
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=timeout)
            if late:
                raise DeadlineExceeded(f"the shim is still busy with {self.id}")

    def note_oom(self) -> None:
        """Record that the kernel's out-of-memory killer has killed one of its processes."""
        self.oom_kills += 1
        self.oom.set()

    async def started(self) -> None:
        """The shim has opened its ends of the pipes."""
        self._fifos.release()
        if self.streams is not None:
            await self.streams.started()

    async def finish(self, end: Exit, *, events: bool = False) -> None:
        """The task has exited: write the remaining output, then record the exit status. Only the first call has an effect.

        With `events` the shim sends events.
        """
        if self.end.done():
            return
        if end.code == _SIGKILL and not self.killed:
            await self._look_for_oom(events=events)
        self._fifos.release()
        if self.streams is not None:
            await self.streams.drained(end)
        if self.end.done():
            return
        recorded = attrs.evolve(end, oom=True) if self.oom.is_set() else end
        self._folder.write_exit(self.id, recorded)
        self.end.set_result(recorded)

    async def _look_for_oom(self, *, events: bool) -> None:
        """Find out by the kernel's log, or else by the event, whether the first process was killed for memory.

        That the log has no kill of it says nothing of a process in a VM, whose event comes soon.
        """
        first = processes.recorded(Path(self.record.bundle) / FIRST_PROCESS)
        known = None if first is None else await asyncio.to_thread(killed_for_memory, first)
        if known:
            self.oom.set()
        elif events:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVENT_SOON if known is False else _EVENT_LATE):
                    await self.oom.wait()

    async def close(self) -> None:
        """Close the streams; the task itself keeps running. May be called twice."""
        for call in tuple(self._calls):
            call.cancel()
        if self.watch is not None and self.watch is not asyncio.current_task():
            self.watch.cancel()
            await asyncio.gather(self.watch, return_exceptions=True)
        self._fifos.release()
        if self.streams is not None:
            await self.streams.close()

    async def forget(self) -> None:
        """The task was removed: waiters for its exit get `NotFound`."""
        if self.streams is not None:
            await self.streams.forget()
        if not self.end.done():
            self.end.set_exception(NotFound("container", self.id))
            self.end.exception()

    async def _resize(self, size: TerminalSize) -> None:
        if self.link is not None:
            with contextlib.suppress(CrishimError):  # it may have exited meanwhile
                await self.link.resize(self.id, "", size)

    async def _stdin_ended(self) -> None:
        if self.link is not None:
            try:
                await self.link.close_stdin(self.id)
            except CrishimError as error:
                _log.debug("stdin of %s was not closed: %s", self.id, error)


def _paths(folder: SandboxFolder, record: TaskRecord) -> FifoPaths:
    requested = record.stdio
    if requested == Stdio():
        return _NO_FIFOS
    if requested.stdin or requested.stdout or requested.stderr:
        return FifoPaths(stdin=requested.stdin, stdout=requested.stdout, stderr=requested.stderr)
    return paths_in(folder.io(record.id), stdin=requested.keep_stdin, stderr=not requested.terminal)
