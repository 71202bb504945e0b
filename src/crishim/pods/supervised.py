"""SupervisedRuntime: a ProgramRuntime whose program is beside the container, and not its first process.

class Mine(SupervisedRuntime):
    async def probe(self):
        return BackendInfo(name="mine", version="1")
    def command(self, bundle, config):
        return ("my-engine", "run", f"--files={bundle / FILES}", str(bundle))

The program makes the container, writes the pid of its first process to `pid`, and runs what the container shall run when it has
read a line from the named pipe `gate`: so the namespaces of a created container exist, and others can join them. Its exit code
is that of the first process, or 128 and the number of its signal. Where it fails before, it writes the reason to `failed`.

Both files are written at once (by a rename), and `gate` is open in the program before it writes `pid`. All are in the folder
`FILES` of the bundle, with `first` (the pid and its start time) and `started`, which are written here.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import AlreadyExists, CreateRefused, FailedPrecondition
from crishim.interfaces.oci_runtime import OciState, OciStatus, Stdio
from crishim.linux import oom, processes
from crishim.model.process import Exit
from crishim.pods.bundle import load_config
from crishim.pods.program import ProgramRuntime, open_gate

__all__ = ["FILES", "SupervisedRuntime"]

FILES: Final = "supervised"
"""The folder in a bundle."""

_PAUSE: Final = 0.005
_KILLED: Final = 128 + signal.SIGKILL


class SupervisedRuntime(ProgramRuntime):
    """Runs each bundle by one program that supervises the container. A subclass implements `probe` and `command`."""

    def write_files(self, container_id: str, bundle: Path, config: Mapping[str, Any], stdio: Stdio) -> None:
        """Called in a thread before the program is started: write what it needs, in the folder `FILES` of the bundle.

        The program has the container's streams; the named pipes of `stdio` it opens itself, stdin without blocking. Raises
        `InvalidArgument` for a container that cannot be made.
        """

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """As `OciRuntime.create`: returns when the program has made the container."""
        files = bundle / FILES
        try:
            files.mkdir(mode=0o700)
        except FileExistsError:
            raise AlreadyExists("container", container_id) from None
        preparing = asyncio.ensure_future(asyncio.to_thread(self.__prepare, container_id, bundle, stdio))
        try:
            await asyncio.shield(preparing)
            await super().create(container_id, bundle, attrs.evolve(stdio, stdin="", stdout="", stderr=""))
        except BaseException:
            await asyncio.shield(_remove(files, preparing))
            raise
        try:
            await super().start(container_id)  # the program, which waits at its own gate
            await self.__reached(container_id, files, (files / "pid").exists)
            pid = processes.read_pid(files / "pid")
            if processes.record(files / "first", pid) is None:
                raise CreateRefused(_reason(files) or "the first process of the container has ended before its start")
        except BaseException:
            await asyncio.shield(self.delete(container_id))
            raise
        return pid

    def __prepare(self, container_id: str, bundle: Path, stdio: Stdio) -> None:
        os.mkfifo(bundle / FILES / "gate", 0o600)
        self.write_files(container_id, bundle, load_config(bundle), stdio)

    async def start(self, container_id: str) -> None:
        """As `OciRuntime.start`: open the gate, and return when the first process runs the container's program."""
        state = await self.state(container_id)
        if state.status is not OciStatus.CREATED:
            raise FailedPrecondition(state.status.value, OciStatus.CREATED.value, f"container {container_id}")
        files, program = Path(state.bundle) / FILES, _program(state.pid)
        (files / "started").touch()
        open_gate(files / "gate")  # without effect where the program has just ended, which is seen next
        await self.__reached(container_id, files, lambda: _program(state.pid) not in {program, ""})

    async def __reached(self, container_id: str, files: Path, done: Callable[[], bool]) -> None:
        """Return when something is done, or the program has ended. Raises `CreateRefused` if it has failed."""
        while not done() and (await super().state(container_id)).status is not OciStatus.STOPPED:  # noqa: ASYNC110 - files and /proc
            await asyncio.sleep(_PAUSE)
        if (files / "failed").exists() or not (files / "pid").exists():
            raise CreateRefused(_reason(files) or "the program beside the container has ended without a reason")

    async def state(self, container_id: str) -> OciState:
        """As `OciRuntime.state`, with the pid of the first process."""
        state = await super().state(container_id)
        files = Path(state.bundle) / FILES
        if state.status is OciStatus.STOPPED or (first := processes.recorded(files / "first")) is None:
            return state
        status = OciStatus.RUNNING if (files / "started").exists() else OciStatus.CREATED
        return attrs.evolve(state, status=status, pid=first.pid)

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        """As `OciRuntime.kill`. Before the start the program itself is signalled: it waits, and would see no exit."""
        state = await self.state(container_id)
        first = processes.recorded(Path(state.bundle) / FILES / "first")
        if state.status is not OciStatus.RUNNING or first is None:
            await super().kill(container_id, signal)
            return
        all_processes = await asyncio.to_thread(processes.all_processes) if everyone else {}
        for process in {first, *(member.identity for member in processes.family([first], all_processes))}:
            processes.send(process, signal)

    async def delete(self, container_id: str) -> None:
        """As `OciRuntime.delete`. Removes `FILES` as well, so that the bundle can be used again."""
        files = Path((await super().state(container_id)).bundle) / FILES
        await super().delete(container_id)
        await _remove(files)

    async def wait(self, container_id: str) -> Exit:
        """As `OciRuntime.wait`."""
        first = processes.recorded(Path((await super().state(container_id)).bundle) / FILES / "first")
        end = await super().wait(container_id)
        if first is None or end.code != _KILLED:
            return end
        return attrs.evolve(end, oom=bool(await asyncio.to_thread(oom.killed_for_memory, first)))


async def _remove(files: Path, preparing: Awaitable[None] | None = None) -> None:
    """Remove the folder, after the thread that writes in it has ended."""
    if preparing is not None:
        await asyncio.gather(preparing, return_exceptions=True)
    with contextlib.suppress(FileNotFoundError):  # the bundle may be removed before its container
        await asyncio.to_thread(shutil.rmtree, files)


def _reason(files: Path) -> str:
    """What the program has written to `failed`; empty if there is nothing."""
    try:
        return (files / "failed").read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def _program(pid: int) -> str:
    """What tells one program of a process from the next one; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
