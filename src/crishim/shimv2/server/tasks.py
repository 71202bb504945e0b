"""Tasks: the shim v2 service over an OciRuntime, in our own words; `routes` has the wire's.

A task is one bundle, known by containerd's namespace and an id. Its streams are the named pipes that containerd has made: they
become the process's own, so that nothing is copied; terminals and execs are copied here. Exits are kept until the task is
deleted, whoever has come or gone meanwhile; when this process dies, containerd has another one end every task. Create, Start
and Delete of one task take turns; everything else runs beside them.
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
from crishim.shimv2.server.options import self_contained
from crishim.shimv2.server.rootfs import mount_rootfs, unmount_rootfs
from crishim.shimv2.server.task import Creation, IoPaths, Key, Pipes, Task, TaskEvents, TaskProcess, TaskRecords

_KILL: Final = 9
_TIMEOUT: Final = 10.0
"""Seconds in which a process that was killed must be gone."""
_SOON: Final = 0.005

_log = logging.getLogger(__name__)


class Tasks:
    """All tasks of this daemon. `make` gives the runtime for a namespace and a task's options; `unified`: cgroup v2."""

    def __init__(
        self,
        make: Callable[[str, tuple[str, bytes]], OciRuntime],
        clock: Clock,
        news: TaskEvents,
        cgroups: Cgroups,
        kept: TaskRecords,
        *,
        unified: bool,
    ) -> None:
        self._make = make
        self._clock = clock
        self._news = news
        self._cgroups = cgroups
        self._kept = kept
        self.unified = unified
        self._tasks: dict[Key, Task] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def create(self, key: Key, creation: Creation) -> int:
        """Mount the root and create the container; answers the pid. Raises `AlreadyExists`."""
        options = await asyncio.to_thread(self_contained, creation.options)
        if key in self._tasks:
            raise AlreadyExists("task", key[1])
        pipes = Pipes(creation.io)
        task = Task(key, creation.bundle, self._make(key[0], options), TaskProcess(pipes))
        self._tasks[key] = task
        try:
            async with task.turn:
                pipes.hold()
                await asyncio.to_thread(self._kept.keep, key, creation.bundle, options)
                await asyncio.to_thread(mount_rootfs, creation.bundle / "rootfs", creation.mounts)
                task.main.pid = await task.runtime.create(key[1], creation.bundle, _stdio(pipes.paths))
                processes.record(creation.bundle / FIRST_PROCESS, task.main.pid)
                if pipes.paths.terminal and isinstance(task.runtime, SupportsAttach):
                    io = pipes.open()
                    task.copying = _begin(task.runtime.attach(ContainerId(key[1]), io), f"terminal of {key[1]}")
        except BaseException:
            try:
                await self._free(task)
            except CrishimError as error:
                _log.warning("what there was of %s is left: %s", key[1], error)
            finally:
                self._tasks.pop(key, None)
            raise
        task.main.work = _begin(self._watch(task), f"exit of {key[1]}")
        self._news.created(task, creation)
        await asyncio.sleep(0)  # the wait for its end is under way before anybody can ask for that
        return task.main.pid

    async def start(self, key: Key, exec_id: str) -> int:
        """Run the created process, or an exec's; answers the pid."""
        task = self._task(key)
        async with task.turn:
            if exec_id:
                return await self._start_exec(task, exec_id)
            if task.main.ended.done():
                raise FailedPrecondition("stopped", "created", f"task {key[1]}")
            await task.runtime.start(key[1])
            if task.main.status is OciStatus.CREATED:
                task.main.status = OciStatus.RUNNING
            self._news.started(task)
            return task.main.pid

    async def delete(self, key: Key, exec_id: str) -> tuple[int, Exit]:
        """Forget a task that does not run, or an exec; answers pid and exit. Raises `FailedPrecondition` while it runs."""
        task = self._task(key)
        async with task.turn:
            if self._task(key) is not task:
                raise NotFound("task", key[1])
            process = self._process(task, exec_id)
            if process.status in {OciStatus.RUNNING, OciStatus.PAUSED}:
                raise FailedPrecondition("running", "stopped", f"task {key[1]}")
            if exec_id:
                process.pipes.close()
                del task.execs[exec_id]
                return process.pid, self._end_of(process)
            async with task.killing:  # containerd hangs up after Delete: a signal under way is answered before
                await self._free(task)
        end = self._end_of(task.main)
        self._news.deleted(task, end)
        return task.main.pid, end

    async def end(self, key: Key, bundle: Path) -> Exit:
        """End whatever there is of a task, known or not: `delete` of a shim's binary. Repeatable."""
        task = self._tasks.get(key)
        if task is None:
            options = await asyncio.to_thread(self._kept.options, bundle)
            if options is None:
                return Exit(code=128 + _KILL, at=self._clock.now())
            task = self._tasks.setdefault(key, self._left(key, bundle, options))
        async with task.turn:
            if self._tasks.get(key) is task:
                await self._free(task)
        return self._end_of(task.main)

    def take_over(self) -> list[Task]:
        """The tasks that a daemon before us has left: known here from now on, and to be ended. For the start."""
        for key, bundle in self._kept.left().items():
            try:
                if (options := self._kept.options(bundle)) is None:
                    self._kept.forget(key, bundle)
                else:
                    self._tasks[key] = self._left(key, bundle, options)
            except Exception:  # noqa: BLE001 - one task, and whatever an author's runtime makes of it, must not end all
                _log.warning("what there was of %s is left", key[1], exc_info=True)
        return list(self._tasks.values())

    async def add_exec(self, key: Key, exec_id: str, io: IoPaths, spec: Mapping[str, Any]) -> None:
        """Note an exec, which `start` runs. Raises `AlreadyExists`."""
        task = self._task(key)
        if not isinstance(task.runtime, SupportsExecProcess):
            raise Unimplemented("Exec", "this runtime runs no further processes")
        if exec_id in task.execs:
            raise AlreadyExists("exec", exec_id)
        process = TaskProcess(Pipes(io), spec={**spec, "terminal": io.terminal})
        task.execs[exec_id] = process
        self._news.exec_added(task, exec_id)

    async def kill(self, key: Key, exec_id: str, signal: int, *, everyone: bool) -> None:
        """Send a signal. Raises `NotFound` for what has ended, as containerd expects it."""
        task = self._task(key)
        process = self._process(task, exec_id)
        if process.ended.done():
            raise NotFound("process", exec_id or key[1])
        if not exec_id:
            async with task.killing:
                await task.runtime.kill(key[1], signal, everyone=everyone)
        elif process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal)
        elif process.work is not None:
            raise FailedPrecondition("starting", "running", f"exec {exec_id}")
        else:
            process.ended.set_result(Exit(code=128 + signal, at=self._clock.now()))
            process.status = OciStatus.STOPPED

    async def wait(self, key: Key, exec_id: str) -> Exit:
        """Return when it has ended. Sticky."""
        return await asyncio.shield(self._process(self._task(key), exec_id).ended)

    async def resize(self, key: Key, exec_id: str, size: TerminalSize) -> None:
        """The terminal's size."""
        self._process(self._task(key), exec_id).pipes.resize(size)

    async def close_stdin(self, key: Key, exec_id: str) -> None:
        """Stdin has no more writers here."""
        self._process(self._task(key), exec_id).pipes.close_stdin()

    async def pause(self, key: Key, *, paused: bool) -> None:
        """Freeze all processes, or let them go on."""
        task = self._task(key)
        if not isinstance(task.runtime, SupportsPause):
            raise Unimplemented("Pause", "this runtime freezes nothing")
        verb = task.runtime.pause_container if paused else task.runtime.resume_container
        await verb(ContainerId(key[1]))
        if not task.main.ended.done():
            task.main.status = OciStatus.PAUSED if paused else OciStatus.RUNNING
        self._news.paused(task, paused=paused)

    async def update(self, key: Key, resources: Mapping[str, Any]) -> None:
        """New limits, as the runtime specification has them."""
        task = self._task(key)
        if not isinstance(task.runtime, SupportsUpdateResources):
            raise Unimplemented("Update", "this runtime changes no limits")
        await task.runtime.update_resources(key[1], resources)

    def look(self, key: Key, exec_id: str) -> tuple[Task, TaskProcess]:
        """A task and one of its processes, as they are. Raises `NotFound`."""
        task = self._task(key)
        return task, self._process(task, exec_id)

    async def pids(self, key: Key) -> list[int]:
        """The processes of the task's cgroup."""
        folder = self._folder(self._task(key))
        return await asyncio.to_thread(self._cgroups.pids, folder) if folder else []

    async def usage(self, key: Key) -> CgroupUsage:
        """What the task's cgroup counts."""
        folder = self._folder(self._task(key))
        return await asyncio.to_thread(cgroup_usage, self._cgroups, folder) if folder else CgroupUsage()

    async def _start_exec(self, task: Task, exec_id: str) -> int:
        process = self._process(task, exec_id)
        if task.main.ended.done() or process.ended.done():
            raise FailedPrecondition("stopped", "running", f"task {task.id}")
        if process.work is not None:
            raise FailedPrecondition("running", "created", f"exec {exec_id}")
        begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        process.work = _begin(self._run_exec(task, exec_id, process, begun), f"exec {exec_id} of {task.id}")
        return await asyncio.shield(begun)

    async def _run_exec(self, task: Task, exec_id: str, process: TaskProcess, begun: "asyncio.Future[int]") -> None:
        runtime = task.runtime
        assert isinstance(runtime, SupportsExecProcess)

        def started(pid: int) -> None:
            process.pid, process.status = pid, OciStatus.RUNNING
            self._news.exec_started(task, exec_id, pid)
            begun.set_result(pid)

        try:
            end = await runtime.exec_process(task.id, process.spec, process.pipes.open(), started)
        except Exception as error:  # noqa: BLE001 - whoever starts it is told, or it has ended
            end = Exit.unknown()
            if begun.done():
                _log.warning("exec %s of %s broke off: %r", exec_id, task.id, error)
            else:
                begun.set_exception(error)
        finally:
            process.pipes.close()
        process.status = OciStatus.STOPPED
        process.ended.set_result(end)
        if begun.exception() is None:
            self._news.exited(task, exec_id, begun.result(), end)

    async def _watch(self, task: Task) -> None:
        try:
            end = await task.runtime.wait(task.id)
        except Exception as error:  # noqa: BLE001 - whatever the runtime says, somebody waits for an end
            _log.warning("the end of %s is not known: %r", task.id, error)
            end = Exit.unknown()
        await self._end_others(task)
        if task.copying is not None:
            await asyncio.wait({task.copying}, timeout=_TIMEOUT)
        task.main.pipes.close()
        task.main.status = OciStatus.STOPPED
        task.main.ended.set_result(attrs.evolve(end, at=end.at or self._clock.now()))
        self._news.exited(task, "", task.main.pid, task.main.ended.result())

    async def _end_others(self, task: Task) -> None:
        """What shares its processes' namespace with others outlives its first process, and holds its pipes: it is ended."""
        with contextlib.suppress(Exception):  # whatever the runtime says, how the first one ended is told
            namespaces = read_config(task.bundle).get("linux", {}).get("namespaces", [])
            if not any(one.get("type") == "pid" and not one.get("path") for one in namespaces):
                await task.runtime.kill(task.id, _KILL, everyone=True)
                async with asyncio.timeout(_TIMEOUT):
                    while await self.pids(task.key):  # noqa: ASYNC110 - nobody tells of other people's children
                        await asyncio.sleep(_SOON)

    async def _free(self, task: Task) -> None:
        """Kill, delete, unmount, forget: as far as each is there.

        Raises `Internal`, and forgets nothing, where the runtime knows no such container and its process runs.
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
        await asyncio.to_thread(self._kept.forget, task.key, task.bundle)
        if not task.main.ended.done():  # of a task that was taken over nobody else tells it
            task.main.ended.set_result(self._end_of(task.main))
            task.main.status = OciStatus.STOPPED
        self._tasks.pop(task.key, None)

    def _left(self, key: Key, bundle: Path, options: tuple[str, bytes]) -> Task:
        """A task that another daemon has made; no more is known of it."""
        return Task(key, bundle, self._make(key[0], options), TaskProcess(Pipes(IoPaths())))

    async def _end_execs(self, task: Task) -> None:
        """Whoever waits for an exec of a task that goes learns of an end."""
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
                    self._news.exited(task, exec_id, process.pid, process.ended.result())

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


def _begin(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_complain)
    return task


def _complain(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("%s: %r", task.get_name(), error)
