"""SandboxShim: the one shim of a sandbox, with all its tasks, from its start to its end.

A shim can be lost in three ways: this process restarted (the address is in a file), the connection broke (it is opened again),
or the process is dead or never responds (it is killed). What a dead shim has left is freed by its binary's `delete`; some
shims free nothing before it has run for every id of the sandbox, members first. Every task has an exit afterwards. Leftovers
stay recorded: freeing them is retried with growing pauses and with each removal, and the removal fails until they are gone.

Starting, cleaning up and ending are serialized by a lock; calls for tasks run concurrently.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Final

import attrs
from google.protobuf.any_pb2 import Any

from crishim._proto.shim_sandbox_pb2 import CreateSandboxRequest
from crishim.errors import AlreadyExists, CrishimError, DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from crishim.interfaces.keeper import Keeper
from crishim.interfaces.oci_runtime import OciStatus, Stdio
from crishim.interfaces.seats import Clock
from crishim.interfaces.tracing import outside_rpcs
from crishim.model.process import Exit
from crishim.shimv2.client.binary import ShimBinary
from crishim.shimv2.client.burial import Burial
from crishim.shimv2.client.cleanup import born, end_shim, free, remove_socket
from crishim.shimv2.client.connection import ShimLink
from crishim.shimv2.client.fifos import ShimLog
from crishim.shimv2.client.files import SandboxFolder, ShimRecord, TaskRecord, left_address, name_like
from crishim.shimv2.client.sandbox_link import SandboxLink, offered
from crishim.shimv2.client.task import ShimTask
from crishim.shimv2.wire.messages import STATUSES, Bootstrap

_log = logging.getLogger(__name__)

_TRIES: Final = 5
_PAUSE: Final = 0.1
"""How often, and after how many seconds each, a lost shim is contacted again."""

_SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds for a shim to exit after Shutdown."""

_PING_TIMEOUT: Final = 5.0
_FREE_TIMEOUT: Final = 40.0
"""Seconds after which a shim that does not respond, or does not free all tasks, is killed at the end of its sandbox."""


class SandboxShim:
    """The shim of one sandbox."""

    def __init__(self, folder: SandboxFolder, binary: ShimBinary, clock: Clock, keeper: Keeper | None = None) -> None:
        self._folder = folder
        self._binary = binary
        self._clock = clock
        self._keeper = keeper
        self._tasks: dict[str, ShimTask] = {}
        self._link: ShimLink | None = None
        self._shim_log: ShimLog | None = None
        self._lock = asyncio.Lock()
        self._launching: asyncio.Task[Bootstrap] | None = None
        self._burial = Burial(folder, binary, self._tasks, self._lock, self._forget_shim)

    @property
    def folder(self) -> SandboxFolder:
        """The folder of its files."""
        return self._folder

    @property
    def left(self) -> tuple[str, ...]:
        """The leftovers of a dead shim on the node; empty while it runs."""
        return self._burial.left if self._burial.pending else ()

    # --- beginning

    async def launch(self, bundle: Path, options: Any | None, pod: CreateSandboxRequest | None = None) -> None:
        """Start the shim with the runtime's own options. After a failure or a cancellation, `end` frees everything.

        A shim with the Sandbox service creates its sandbox by `pod`.
        """
        async with self._lock:
            self._folder.make()
            record = ShimRecord(bundle=str(bundle))
            self._folder.write_shim(record)
            self._open_log(bundle)
            # The start may leave a shim behind at any moment, so it runs to its end, and `end` waits for it.
            self._launching = asyncio.create_task(self._binary.start(self._folder.sandbox_id, bundle, options))
            bootstrap = await asyncio.shield(self._launching)
            record = attrs.evolve(record, address=bootstrap.address, version=bootstrap.version)
            self._folder.write_shim(record)
            self._link = await offered(await ShimLink.connect(bootstrap, self._binary.namespace), pod)
            self._folder.write_shim(attrs.evolve(record, sandbox=isinstance(self._link, SandboxLink)))

    async def resume(self) -> None:
        """After a restart: connect to the shim again, and resume its tasks."""
        async with self._lock:
            record = self._folder.shim()
            if record is not None:
                self._open_log(Path(record.bundle))
            for stored in self._folder.tasks():
                self._tasks[stored.id] = ShimTask(stored, self._folder, self._clock, self._keeper)
                if (end := self._folder.exit_of(stored.id)) is not None:
                    self._tasks[stored.id].end.set_result(end)
            if record is not None and record.dead:
                self._burial.retry_later()
            elif record is not None and not await self._reconnect(record):
                self._burial.begin(record)  # in the background, so that the inventory does not wait
                return
            for task in self._tasks.values():
                if not task.end.done():
                    await self._hold_again(task)

    # --- tasks

    async def create(self, task_id: str, bundle: Path, stdio: Stdio, options: Any | None) -> int:
        """Create a task with the runtime's own options, and watch for its exit."""
        if task_id in self._tasks:
            raise AlreadyExists("container", task_id)
        link = await self.link()
        name_like(bundle, task_id)
        record = TaskRecord(id=task_id, bundle=str(bundle), stdio=stdio)
        self._folder.write_task(record)
        task = self._tasks[task_id] = ShimTask(record, self._folder, self._clock, self._keeper)
        task.link = link
        await task.make_streams()
        pid = await task.steadily(task.create(link, options))
        self._folder.write_created(task_id)
        if (known := self._folder.shim()) is not None and not known.pid:
            await self._ask_pid(link, known)
        self._watch(task)
        return pid

    async def start(self, task_id: str) -> None:
        """Start a task."""
        task = self.task(task_id)
        link = await self.link()
        await task.steadily(link.start(task_id))
        await task.started()

    async def status(self, task_id: str) -> tuple[OciStatus, int]:
        """The status and pid of a task. Raises `NotFound`."""
        task = self.task(task_id)
        if task.end.done() or self._burial.pending:
            return OciStatus.STOPPED, 0
        try:
            response = await (await self.link()).state(task_id)
        except (Unavailable, DeadlineExceeded):
            if task.end.done():
                return OciStatus.STOPPED, 0
            raise
        return STATUSES.get(response.status, OciStatus.STOPPED), response.pid

    async def wait(self, task_id: str) -> Exit:
        """As `OciRuntime.wait`."""
        return await asyncio.shield(self.task(task_id).end)

    def holds(self, task_id: str) -> bool:
        """Whether a task belongs to this sandbox."""
        return task_id in self._tasks

    def task(self, task_id: str) -> ShimTask:
        """A task of this sandbox. Raises `NotFound`."""
        task = self._tasks.get(task_id)
        if task is None:
            raise NotFound("container", task_id)
        return task

    async def remove(self, task_id: str) -> None:
        """Kill and delete a member, and forget it."""
        task = self.task(task_id)
        await self._free(task)
        await self._forget(task)

    # --- the end

    async def end(self) -> None:
        """Delete every task, and end the shim. The exits of the members stay recorded until each is removed.

        A shim that refuses, or does not respond, is killed, and its leftovers are freed. Raises `Unavailable` while leftovers
        are on the node.
        """
        await self._settle()
        own = self._folder.sandbox_id
        dead = self._burial.pending
        failure = None if dead else await self._free_all()
        async with self._lock:
            if dead:
                await self._bury()
            elif not self._burial.pending:  # else it was tried just now
                if failure is None:
                    await self._dismiss()
                else:
                    _log.warning("the shim of sandbox %s does not free its tasks: %s", own, failure)
                    await self._bury()
        if self._burial.pending:
            raise Unavailable(f"the shim of sandbox {own} is dead, and these leftovers remain: {'; '.join(self._burial.left)}")
        if own in self._tasks:
            await self._forget(self._tasks[own])
        self._folder.remove_if_empty()

    async def detach(self) -> None:
        """Close the connection and the pipes; the shim and its tasks keep running, as after a crash of this process."""
        self._burial.close()
        for task in self._tasks.values():
            await task.close()
        if self._shim_log is not None:
            self._shim_log.close()
        if self._link is not None:
            await self._link.close()

    # --- the shim itself

    async def link(self) -> ShimLink:
        """The connection, opened again if it was lost. Raises `Unavailable` if the shim is dead; its leftovers are
        then freed.
        """
        if self._link is None or self._link.closed:
            async with self._lock:
                await self._recover()
        if self._link is None:
            raise Unavailable(f"the shim of sandbox {self._folder.sandbox_id} has ended")
        return self._link

    async def _recover(self) -> None:
        """Reconnect to a lost shim, or clean up after it. The caller holds the lock."""
        if self._link is not None and not self._link.closed:
            return
        self._link = None
        record = self._folder.shim()
        if record is not None and not record.dead and not await self._reconnect(record):
            await self._bury()

    async def _reconnect(self, record: ShimRecord) -> bool:
        """Connect to a shim again; false if it does not respond. The caller holds the lock."""
        address = record.address or left_address(Path(record.bundle))
        for attempt in range(_TRIES if address else 0):
            if attempt:
                await asyncio.sleep(_PAUSE)
            with contextlib.suppress(Unavailable, InvalidArgument):
                link = await ShimLink.connect(Bootstrap(address, record.version), self._binary.namespace)
                self._link = SandboxLink(link, self._folder.sandbox_id) if record.sandbox else link
                for task in self._tasks.values():
                    task.link = self._link
                self._burial.watch(record)
                return True
        return False

    async def _settle(self) -> None:
        """Wait for an interrupted start to end, and record the shim that it has left."""
        record = self._folder.shim()
        if self._launching is None or record is None or record.address:
            return
        await asyncio.wait({self._launching})
        if not self._launching.cancelled() and self._launching.exception() is None:
            bootstrap = self._launching.result()
            self._folder.write_shim(attrs.evolve(record, address=bootstrap.address, version=bootstrap.version))

    async def _bury(self) -> None:
        """Kill the shim, and free its leftovers. The caller holds the lock."""
        if self._link is not None:
            await self._link.close()
            self._link = None
        await self._burial.bury()

    async def _clear_away(self, task: ShimTask) -> None:
        try:
            await self._binary.delete(task.id, Path(task.record.bundle))
        except (CrishimError, OSError) as error:
            _log.warning("leftovers of %s may remain: %s", task.id, error)

    async def _free_all(self) -> Exception | None:
        """Delete every task from the shim, members first; return the failure. Takes `_FREE_TIMEOUT` seconds at most."""
        own = self._folder.sandbox_id
        members = [task for task in self._tasks.values() if task.id != own]
        try:
            async with asyncio.timeout(_FREE_TIMEOUT):
                await self._ping()
                for tasks in (members, [task for task in self._tasks.values() if task.id == own]):
                    outcomes = await asyncio.gather(*(self._free(task) for task in tasks), return_exceptions=True)
                    for outcome in outcomes:
                        if isinstance(outcome, Exception):
                            return outcome
        except TimeoutError:
            return DeadlineExceeded(f"it has taken more than {_FREE_TIMEOUT:g} s")
        except DeadlineExceeded as error:
            return error
        return None

    async def _ping(self) -> None:
        """Raise `DeadlineExceeded` if the shim does not respond. It does not respond, either, during a creation."""
        try:
            link = await self.link()  # even a shim without any task must be found, to be ended
            for task in self._tasks.values():
                await task.settle(link.timeout)
            await link.shim_pid(self._folder.sandbox_id, _PING_TIMEOUT)
        except DeadlineExceeded:
            raise
        except CrishimError as error:
            _log.debug("the shim of sandbox %s: %s", self._folder.sandbox_id, error)

    async def _dismiss(self) -> None:
        """Shut the shim down, and kill it if it does not exit. The caller holds the lock."""
        record = self._folder.shim()
        if record is None:
            return
        if self._link is not None:
            if not record.pid:
                record = await self._ask_pid(self._link, record)
            with contextlib.suppress(CrishimError):
                await self._link.shutdown(self._folder.sandbox_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SHUTDOWN_TIMEOUT):
                    await self._link.ended()
            await self._link.close()
            self._link = None
        if await asyncio.to_thread(end_shim, record.pid, record.born, Path(record.bundle)):
            _log.debug("the shim of sandbox %s had to be killed", self._folder.sandbox_id)
        await self._burial.check(record)

    def _forget_shim(self) -> None:
        """Delete the record of the shim, of which nothing is left."""
        record = self._folder.shim()
        if record is not None:
            remove_socket(record.address)  # a killed shim has not removed it
        self._folder.forget_shim()
        if self._shim_log is not None:
            self._shim_log.close()
            self._shim_log = None

    async def _ask_pid(self, link: ShimLink, record: ShimRecord) -> ShimRecord:
        """Record the pid of the shim, for the case that it must be killed."""
        with contextlib.suppress(CrishimError):
            pid = await link.shim_pid(self._folder.sandbox_id)
            record = attrs.evolve(record, pid=pid, born=born(pid))
            self._folder.write_shim(record)
            self._burial.watch(record)
        return record

    def _open_log(self, bundle: Path) -> None:
        self._shim_log = ShimLog(bundle)
        self._shim_log.open()

    # --- one task

    async def _hold_again(self, task: ShimTask) -> None:
        """Resume a task that was created before a restart: streams and wait."""
        if self._link is None:
            if self._burial.pending:
                await task.finish(Exit.unknown())
            return
        task.link = self._link
        try:
            status = STATUSES.get((await self._link.state(task.id)).status)
        except NotFound:  # its creation was interrupted
            await task.finish(Exit.unknown())
            return
        except CrishimError as error:
            _log.warning("the state of task %s is unknown: %s", task.id, error)
            status = None
        try:
            await task.open_streams(hold=status is OciStatus.CREATED)
        except CrishimError as error:
            _log.warning("output of %s is lost: %s", task.id, error)
        self._watch(task)

    def _watch(self, task: ShimTask) -> None:
        task.watch = asyncio.create_task(self._follow(task), name=f"end of {task.id}", context=outside_rpcs())

    async def _follow(self, task: ShimTask) -> None:
        """Wait for a task's exit, across lost connections."""
        while not task.end.done():
            try:
                end = await (await self.link()).wait(task.id)
            except Unavailable:
                if self._folder.shim() is not None:
                    await asyncio.sleep(_PAUSE)
                    continue
                end = Exit.unknown()
            except CrishimError as error:
                _log.warning("the exit status of %s is unknown: %s", task.id, error)
                end = Exit.unknown()
            await task.finish(end, events=bool(self._binary.events))

    async def _free(self, task: ShimTask) -> None:
        """Kill and delete a task; if the shim is dead, the cleanup has done that."""
        while not self._folder.gone(task.id):
            try:
                known = await free(await self.link(), task, self._clock)
                if not known and self._binary.leaves_halves:
                    await self._clear_away(task)
            except Unavailable:
                if self._link is not None and not self._link.closed:
                    raise  # the shim's own error, and not its loss
                if self._burial.pending:
                    raise
                if self._folder.shim() is not None:
                    await asyncio.sleep(_PAUSE)
                    continue
            self._folder.write_gone(task.id)

    async def _forget(self, task: ShimTask) -> None:
        if not task.end.done() and task.watch is not None:
            await asyncio.wait({task.watch}, timeout=_PAUSE)
        await task.close()
        self._tasks.pop(task.id, None)
        self._folder.forget_task(task.id)
        self._folder.remove_if_empty()
        await task.forget()
