"""Tasks: the shim v2 service over an OciRuntime, on the library's values; `routes` converts the messages.

A task is one bundle, named by containerd's namespace and an id. Its streams are named pipes that containerd has created: they
become the process's own, so that nothing is copied; only terminals and execs are copied here. Exits are stored until the task
is deleted, whichever clients connect; if this process dies, containerd runs the binary's `delete` for every task. Create,
Start and Delete of one task are serialized; other calls run concurrently.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import AlreadyExists, CrishimError, FailedPrecondition, Internal, NotFound, Unimplemented
from crishim.interfaces.capabilities import SupportsAttach, SupportsPause
from crishim.interfaces.oci_runtime import (
    FIRST_PROCESS,
    OciRuntime,
    OciStatus,
    Stdio,
    SupportsExecProcess,
    SupportsUpdateResources,
)
from crishim.interfaces.seats import Clock
from crishim.linux import processes
from crishim.linux.cgroups import Cgroups, folder_of
from crishim.model.process import Exit, TerminalSize
from crishim.model.stats import CgroupUsage
from crishim.model.values import ContainerId
from crishim.pods.bundle import read_config
from crishim.pods.usage import cgroup_usage
from crishim.shimv2.server import crio
from crishim.shimv2.server.abilities import Abilities
from crishim.shimv2.server.options import self_contained
from crishim.shimv2.server.pause import add_pod_files
from crishim.shimv2.server.rootfs import mount_with_ids, unmount_rootfs
from crishim.shimv2.server.task import Creation, IoPaths, Key, Pipes, Task, TaskEvents, TaskProcess, TaskRecords

_KILL: Final = 9
_TIMEOUT: Final = 10.0
"""Seconds in which a killed process must have ended."""
_SOON: Final = 0.005

_log = logging.getLogger(__name__)


class Tasks:
    """All tasks of this daemon. `make` returns the runtime for a namespace and a task's options; `unified`: cgroup v2.

    `pods`/NAMESPACE has the files of each pod whose sandbox is served here (`sandboxes`).
    """

    def __init__(
        self,
        make: Callable[[str, tuple[str, bytes]], OciRuntime],
        clock: Clock,
        events: TaskEvents,
        cgroups: Cgroups,
        records: TaskRecords,
        *,
        pods: Path,
        unified: bool,
    ) -> None:
        self._make = make
        self._clock = clock
        self._events = events
        self._cgroups = cgroups
        self._records = records
        self._pods = pods
        self.unified = unified
        self._tasks: dict[Key, Task] = {}
        self.abilities = Abilities()
        self.shutdown_asked = asyncio.Event()
        """Set by Shutdown and ShutdownSandbox."""

    def __len__(self) -> int:
        return len(self._tasks)

    async def create(self, key: Key, creation: Creation) -> int:
        """Mount the root file system and create the container; return the pid. Raises `AlreadyExists`."""
        options = await asyncio.to_thread(self_contained, creation.options)
        if key in self._tasks:
            raise AlreadyExists("task", key[1])
        pipes = Pipes(creation.io)
        task = Task(key, creation.bundle, self._make(key[0], options), TaskProcess(pipes))
        self._tasks[key] = task
        try:
            async with task.lock:
                pipes.hold()
                await asyncio.to_thread(self._records.save, key, creation.bundle, options)
                await self.abilities.check_task((key[0], options), task.runtime, creation.bundle, terminal=creation.io.terminal)
                await mount_with_ids(creation.bundle, creation.mounts)
                task.sandbox = await asyncio.to_thread(add_pod_files, creation.bundle, self._pods / key[0])
                task.main.pid = await task.runtime.create(key[1], creation.bundle, _stdio(pipes.paths))
                processes.record(creation.bundle / FIRST_PROCESS, task.main.pid)
                if pipes.paths.terminal and isinstance(task.runtime, SupportsAttach):
                    io = pipes.open()
                    task.copying = begin(task.runtime.attach(ContainerId(key[1]), io), f"terminal of {key[1]}")
        except BaseException:
            try:
                await self._free(task)
            except CrishimError as error:
                _log.warning("leftovers of %s remain: %s", key[1], error)
            finally:
                self._tasks.pop(key, None)
            raise
        task.main.work = begin(self._watch(task), f"exit of {key[1]}")
        self._events.created(task, creation)
        await asyncio.sleep(0)  # the wait for its exit begins before a client can call Wait
        return task.main.pid

    async def start(self, key: Key, exec_id: str) -> int:
        """Start the created process, or an exec; return the pid."""
        task = self._task(key)
        async with task.lock:
            if exec_id:
                return await self._start_exec(task, exec_id)
            if task.main.ended.done():
                raise FailedPrecondition("stopped", "created", f"task {key[1]}")
            await task.runtime.start(key[1])
            if task.main.status is OciStatus.CREATED:
                task.main.status = OciStatus.RUNNING
            self._events.started(task)
            return task.main.pid

    async def delete(self, key: Key, exec_id: str) -> tuple[int, Exit]:
        """Delete a task that does not run, or an exec; return pid and exit. Raises `FailedPrecondition` while it runs."""
        task = self._task(key)
        async with task.lock:
            if self._task(key) is not task:
                raise NotFound("task", key[1])
            process = self._process(task, exec_id)
            if process.status in {OciStatus.RUNNING, OciStatus.PAUSED}:
                raise FailedPrecondition("running", "stopped", f"task {key[1]}")
            if exec_id:
                process.pipes.close()
                del task.execs[exec_id]
                return process.pid, self._end_of(process)
            async with task.killing:  # containerd closes the connection after Delete, so a Kill under way is answered first
                await self._free(task)
        end = self._end_of(task.main)
        self._events.deleted(task, end)
        return task.main.pid, end

    async def end(self, key: Key, bundle: Path) -> Exit:
        """End a task, known or not, and free its leftovers: `delete` of a shim's binary. Repeatable."""
        task = self._tasks.get(key)
        if task is None:
            options = await asyncio.to_thread(self._records.options, bundle)
            if options is None:
                return Exit(code=128 + _KILL, at=self._clock.now())
            task = self._tasks.setdefault(key, self._left(key, bundle, options))
        async with task.lock:
            if self._tasks.get(key) is task:
                await self._free(task)
        return self._end_of(task.main)

    def take_over(self) -> list[Task]:
        """The tasks that a previous daemon has left: known from now on, and to be ended. Called at start."""
        for key, bundle in self._records.left().items():
            try:
                if (options := self._records.options(bundle)) is None:
                    self._records.forget(key, bundle)
                else:
                    self._tasks[key] = self._left(key, bundle, options)
            except Exception:  # noqa: BLE001 - an error of one task must not end the daemon
                _log.warning("leftovers of %s remain", key[1], exc_info=True)
        return list(self._tasks.values())

    async def add_exec(self, key: Key, exec_id: str, io: IoPaths, spec: Mapping[str, Any]) -> None:
        """Add an exec, which `start` runs. Raises `AlreadyExists`."""
        task = self._task(key)
        if not isinstance(task.runtime, SupportsExecProcess):
            raise Unimplemented("Exec", "this runtime does not support exec")
        if exec_id in task.execs:
            raise AlreadyExists("exec", exec_id)
        process = TaskProcess(Pipes(io), spec={**spec, "terminal": io.terminal})
        task.execs[exec_id] = process
        self._events.exec_added(task, exec_id)

    async def kill(self, key: Key, exec_id: str, signal: int, *, everyone: bool) -> None:
        """Send a signal. Raises `NotFound` for a process that has exited, as containerd expects, but not CRI-O."""
        task = self._task(key)
        process = self._process(task, exec_id)
        try:
            if process.ended.done():
                raise NotFound("process", exec_id or key[1])
            await self._signal(task, process, exec_id, signal, everyone=everyone)
        except NotFound:
            if not await asyncio.to_thread(crio.is_bundle_of_crio, task.bundle):
                raise

    async def _signal(self, task: Task, process: TaskProcess, exec_id: str, signal: int, *, everyone: bool) -> None:
        if not exec_id:
            async with task.killing:
                await task.runtime.kill(task.id, signal, everyone=everyone)
        elif process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal)
        elif process.work is not None:
            raise FailedPrecondition("starting", "running", f"exec {exec_id}")
        else:
            process.ended.set_result(Exit(code=128 + signal, at=self._clock.now()))
            process.status = OciStatus.STOPPED

    async def wait(self, key: Key, exec_id: str) -> Exit:
        """Return when the process has exited, also if it had exited before the call."""
        return await asyncio.shield(self._process(self._task(key), exec_id).ended)

    async def resize(self, key: Key, exec_id: str, size: TerminalSize) -> None:
        """Set the terminal's size."""
        self._process(self._task(key), exec_id).pipes.resize(size)

    async def close_stdin(self, key: Key, exec_id: str) -> None:
        """Close our writing end of stdin."""
        self._process(self._task(key), exec_id).pipes.close_stdin()

    async def pause(self, key: Key, *, paused: bool) -> None:
        """Freeze all processes, or resume them."""
        task = self._task(key)
        if not isinstance(task.runtime, SupportsPause):
            raise Unimplemented("Pause", "this runtime does not support pause")
        verb = task.runtime.pause_container if paused else task.runtime.resume_container
        await verb(ContainerId(key[1]))
        if not task.main.ended.done():
            task.main.status = OciStatus.PAUSED if paused else OciStatus.RUNNING
        self._events.paused(task, paused=paused)

    async def update(self, key: Key, resources: Mapping[str, Any]) -> None:
        """Set limits, in the form of the runtime specification."""
        task = self._task(key)
        if not isinstance(task.runtime, SupportsUpdateResources):
            raise Unimplemented("Update", "this runtime does not support updates of limits")
        await task.runtime.update_resources(key[1], resources)

    def members(self, sandbox: Key) -> list[Task]:
        """The tasks that belong to a sandbox of containerd's."""
        mine = (task for task in self._tasks.values() if task.key[0] == sandbox[0] and task.key != sandbox)
        return [task for task in mine if task.sandbox == sandbox[1]]

    def look(self, key: Key, exec_id: str) -> tuple[Task, TaskProcess]:
        """A task and one of its processes. Raises `NotFound`."""
        task = self._task(key)
        return task, self._process(task, exec_id)

    async def pids(self, key: Key) -> list[int]:
        """The processes of the task's cgroup."""
        folder = self._folder(self._task(key))
        return await asyncio.to_thread(self._cgroups.pids, folder) if folder else []

    async def usage(self, key: Key) -> CgroupUsage:
        """The usage of the task's cgroup."""
        folder = self._folder(self._task(key))
        return await asyncio.to_thread(cgroup_usage, self._cgroups, folder) if folder else CgroupUsage()

    async def _start_exec(self, task: Task, exec_id: str) -> int:
        process = self._process(task, exec_id)
        if task.main.ended.done() or process.ended.done():
            raise FailedPrecondition("stopped", "running", f"task {task.id}")
        if process.work is not None:
            raise FailedPrecondition("running", "created", f"exec {exec_id}")
        begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        process.work = begin(self._run_exec(task, exec_id, process, begun), f"exec {exec_id} of {task.id}")
        return await asyncio.shield(begun)

    async def _run_exec(self, task: Task, exec_id: str, process: TaskProcess, begun: "asyncio.Future[int]") -> None:
        runtime = task.runtime
        assert isinstance(runtime, SupportsExecProcess)

        def started(pid: int) -> None:
            process.pid, process.status = pid, OciStatus.RUNNING
            self._events.exec_started(task, exec_id, pid)
            begun.set_result(pid)

        try:
            end = await runtime.exec_process(task.id, process.spec, process.pipes.open(), started)
        except Exception as error:  # noqa: BLE001 - Start receives the error, or the exec has ended
            end = Exit.unknown()
            if begun.done():
                _log.warning("exec %s of %s failed: %r", exec_id, task.id, error)
            else:
                begun.set_exception(error)
        finally:
            process.pipes.close()
        process.status = OciStatus.STOPPED
        process.ended.set_result(end)
        if begun.exception() is None:
            self._events.exited(task, exec_id, begun.result(), end)

    async def _watch(self, task: Task) -> None:
        try:
            end = await task.runtime.wait(task.id)
        except Exception as error:  # noqa: BLE001 - whatever the runtime says, somebody waits for an end
            _log.warning("the exit status of %s is unknown: %r", task.id, error)
            end = Exit.unknown()
        await self._end_others(task)
        if task.copying is not None:
            await asyncio.wait({task.copying}, timeout=_TIMEOUT)
        if end.oom:
            await asyncio.to_thread(crio.write_oom_file, task.bundle)
        task.main.pipes.close()
        task.main.status = OciStatus.STOPPED
        task.main.ended.set_result(attrs.evolve(end, at=end.at or self._clock.now()))
        self._events.exited(task, "", task.main.pid, task.main.ended.result())

    async def _end_others(self, task: Task) -> None:
        """Kill the other processes of a task that shares the pid namespace of others: they outlive its first process, and hold
        its pipes open.
        """
        with contextlib.suppress(Exception):  # the exit of the first process is published in any case
            namespaces = read_config(task.bundle).get("linux", {}).get("namespaces", [])
            if not any(one.get("type") == "pid" and not one.get("path") for one in namespaces):
                await task.runtime.kill(task.id, _KILL, everyone=True)
                async with asyncio.timeout(_TIMEOUT):
                    while await self.pids(task.key):  # noqa: ASYNC110 - there is no event for the children of other processes
                        await asyncio.sleep(_SOON)

    async def _free(self, task: Task) -> None:
        """Kill, delete, unmount and forget a task, as far as each is necessary.

        Raises `Internal`, and forgets nothing, if the runtime does not know the container and its process runs.
        """
        try:
            await task.runtime.delete(task.id)
        except NotFound as error:
            first = processes.recorded(task.bundle / FIRST_PROCESS)
            if first is not None and processes.runs(first):
                raise Internal(f"the runtime does not know {task.id}, whose process {first.pid} runs") from error
        if task.main.work is not None:
            await asyncio.wait({task.main.work}, timeout=_TIMEOUT)
        await self._end_execs(task)
        if task.copying is not None:
            task.copying.cancel()
        for process in (task.main, *task.execs.values()):
            process.pipes.close()
        await asyncio.to_thread(unmount_rootfs, task.bundle / "rootfs")
        await asyncio.to_thread(self._records.forget, task.key, task.bundle)
        if not task.main.ended.done():  # a task of a previous daemon has no other watcher
            task.main.ended.set_result(self._end_of(task.main))
            task.main.status = OciStatus.STOPPED
        self._tasks.pop(task.key, None)

    def _left(self, key: Key, bundle: Path, options: tuple[str, bytes]) -> Task:
        """A task that another daemon has created, of which only this is known."""
        return Task(key, bundle, self._make(key[0], options), TaskProcess(Pipes(IoPaths())))

    async def _end_execs(self, task: Task) -> None:
        """End the waits for the execs of a task that is deleted."""
        running = {process.work for process in task.execs.values() if process.work is not None and not process.work.done()}
        for work in running:
            work.cancel()
        if running:
            await asyncio.wait(running, timeout=_TIMEOUT)
        for exec_id, process in task.execs.items():
            if not process.ended.done():
                process.ended.set_result(self._end_of(process))
                process.status = OciStatus.STOPPED
                if process.pid:
                    self._events.exited(task, exec_id, process.pid, process.ended.result())

    def _end_of(self, process: TaskProcess) -> Exit:
        if process.ended.done():
            return process.ended.result()
        return Exit(code=128 + _KILL, at=self._clock.now())

    def _folder(self, task: Task) -> str:
        path = read_config(task.bundle).get("linux", {}).get("cgroupsPath", "")
        return folder_of(path) if path else ""

    def _task(self, key: Key) -> Task:
        try:
            return self._tasks[key]
        except KeyError:
            raise NotFound("task", key[1]) from None

    def _process(self, task: Task, exec_id: str) -> TaskProcess:
        if not exec_id:
            return task.main
        try:
            return task.execs[exec_id]
        except KeyError:
            raise NotFound("exec", exec_id) from None


def _stdio(paths: IoPaths) -> Stdio:
    return Stdio(
        terminal=paths.terminal,
        stdin=paths.stdin,
        stdout=paths.stdout,
        stderr=paths.stderr,
        keep_stdin=bool(paths.stdin),
        monitored_by_parent=True,
    )


def begin(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    """Begin work in the background, whose failure is logged."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_complain)
    return task


def _complain(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("%s: %r", task.get_name(), error)
