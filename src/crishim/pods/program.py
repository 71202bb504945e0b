"""ProgramRuntime: an OciRuntime whose containers are one program each, for engines that are a command line.

class Mine(ProgramRuntime):
    async def probe(self):
        return BackendInfo(name="mine", version="1")
    def command(self, bundle, config):
        return ("my-engine", "run", str(bundle))

With `exec_command` as well, of `ExecProgramRuntime`, it has exec, which `kubectl exec` and probes by command need.

The node's keeper runs the program, so containers, their output and their exits survive a restart of crishim. `create` starts a
shell that waits in front of the program, and `start` lets it go on. Files of a container, in `FOLDER/programs/ID`: `bundle` (a
link), `gate` (the pipe that the shell reads), `process` (its pid and start time), and `started`.
"""

import asyncio
import contextlib
import errno
import os
import shlex
import shutil
import signal
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from crishim.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from crishim.interfaces.capabilities import ProcessIO, SupportsAttach, SupportsLogReopen
from crishim.interfaces.keeper import Keeper, KeepRequest
from crishim.interfaces.oci_runtime import (
    OciRuntime,
    OciState,
    OciStatus,
    Stdio,
    SupportsCgroupUsage,
    SupportsExecProcess,
)
from crishim.keeper.client import KeeperClient
from crishim.linux import processes
from crishim.linux.children import Child, children
from crishim.linux.programs import find_program
from crishim.logs.execution import ExecStreams
from crishim.model.process import Exit
from crishim.model.stats import CgroupUsage
from crishim.model.values import ContainerId
from crishim.pods.bundle import load_config

__all__ = ["ExecProgramRuntime", "ProgramRuntime"]

_GATE_TIMEOUT: Final = 10.0
_DRAIN_TIMEOUT: Final = 5.0
_SIGKILL: Final = int(signal.SIGKILL)
_PAUSE: Final = 0.005


class ProgramRuntime(OciRuntime, SupportsAttach, SupportsLogReopen, SupportsCgroupUsage):
    """Runs each bundle as one program. A subclass implements `probe` and `command`, and may refuse a start in `check`.

    `folder` is for the runtime's state, which a reboot clears. `keeper` is the node's (`BackendContext.keeper`); without it, as
    under containerd, the runtime has one of its own in the folder. Its attributes and helper methods are mangled (`__`), so
    that a subclass may have any.
    """

    def __init__(self, folder: Path, keeper: Keeper | None = None) -> None:
        self.__folder = folder / "programs"
        self.__folder.mkdir(parents=True, exist_ok=True)
        self.__keeper = keeper or KeeperClient(folder / "keeper")

    @abstractmethod
    def command(self, bundle: Path, config: Mapping[str, Any]) -> Sequence[str]:
        """The command line that runs the container of a bundle, in the foreground, until the container ends.

        `config` is the bundle's config.json. The command runs on the node, in the bundle's folder, with the container's streams
        and with PATH alone in its environment: the container's variables, which its author chooses, may be set for nothing that
        runs outside of the container. Its exit code is the container's. A signal is sent to it and to what it has started.
        """

    async def check(self, bundle: Path, config: Mapping[str, Any]) -> None:
        """Called before a start. Raises `InvalidArgument` for a container that cannot be run, with the field of CRI."""
        program = self.command(bundle, config)[0]
        if not find_program(program, cwd=str(bundle)):
            raise InvalidArgument("config.command", f"{program} does not exist, or is not executable")

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        """As `OciRuntime.create`: start the shell in front of the program."""
        folder = self.__folder / container_id
        try:
            folder.mkdir()
        except FileExistsError:
            raise AlreadyExists("container", container_id) from None
        try:
            (folder / "bundle").symlink_to(bundle)
            os.mkfifo(folder / "gate", 0o600)
            config = load_config(bundle)
            request = KeepRequest(
                name=container_id,
                argv=("sh", "-c", _script(stdio), str(folder / "gate"), *self.command(bundle, config)),
                env={"PATH": os.environ.get("PATH", os.defpath)},
                cwd=str(bundle),
                log_path=stdio.log_path,
                terminal=stdio.terminal,
                stdin=stdio.keep_stdin,
                stdin_once=stdio.stdin_once,
            )
            pid = await self.__keeper.keep(request)
        except BaseException:
            shutil.rmtree(folder)
            raise
        processes.record(folder / "process", pid)
        return pid

    async def start(self, container_id: str) -> None:
        """As `OciRuntime.start`: let the shell go on."""
        folder = self.__known(container_id)
        bundle = (folder / "bundle").readlink()
        await self.__must_be_created(container_id)
        await self.check(bundle, load_config(bundle))
        try:
            async with asyncio.timeout(_GATE_TIMEOUT):
                while not open_gate(folder / "gate"):
                    await self.__must_be_created(container_id)
                    await asyncio.sleep(_PAUSE)
        except TimeoutError:
            raise Unavailable(f"the shell of container {container_id} does not read its gate") from None
        (folder / "started").touch()

    async def __must_be_created(self, container_id: str) -> None:
        status = (await self.state(container_id)).status
        if status is not OciStatus.CREATED:
            raise FailedPrecondition(status.value, OciStatus.CREATED.value, f"container {container_id}")

    async def state(self, container_id: str) -> OciState:
        """As `OciRuntime.state`."""
        folder = self.__known(container_id)
        process = processes.recorded(folder / "process")
        runs = process is not None and processes.runs(process)
        started = (folder / "started").exists()
        status = OciStatus.STOPPED if not runs else OciStatus.RUNNING if started else OciStatus.CREATED
        pid = process.pid if process is not None and runs else 0
        return OciState(id=container_id, status=status, pid=pid, bundle=str((folder / "bundle").readlink()))

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:  # noqa: ARG002 - to all of the group
        """As `OciRuntime.kill`: the program's process group gets the signal; SIGKILL goes to all its descendants, in whatever
        session, since a supervisor that is killed could not end them any more.
        """
        folder = self.__known(container_id)
        process = processes.recorded(folder / "process")
        runs = process is not None and processes.runs(process)
        if process is not None and runs and signal == _SIGKILL:
            await processes.kill_family([process])
            return
        try:
            await self.__keeper.kill(container_id, signal)
        except (NotFound, Unavailable):
            if process is None or not runs:
                raise
            await asyncio.to_thread(_signal, process, signal)  # its keeper has ended

    async def delete(self, container_id: str) -> None:
        """As `OciRuntime.delete`."""
        folder = self.__known(container_id)
        process = processes.recorded(folder / "process")
        if process is not None and processes.runs(process):
            await processes.kill_family([process])
            await processes.ended(process)
        with contextlib.suppress(NotFound, Unavailable):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_TIMEOUT):  # so that waiters get the exit before the keeper forgets it
                    await self.__keeper.wait(container_id)
            await self.__keeper.forget(container_id)
        shutil.rmtree(folder)

    async def wait(self, container_id: str) -> Exit:
        """As `OciRuntime.wait`. Without its keeper nobody knows the exit code, but the end of the process."""
        folder = self.__known(container_id)
        try:
            return await self.__keeper.wait(container_id)
        except (NotFound, Unavailable):
            process = processes.recorded(folder / "process")
            if process is not None:
                await processes.ended(process)
            self.__known(container_id)
            return Exit.unknown()

    async def cgroup_usage(self, container_id: str) -> CgroupUsage:
        """As `SupportsCgroupUsage.cgroup_usage`: of the program and its descendants, since there may be no cgroup."""
        pid = (await self.state(container_id)).pid
        if not pid:
            raise NotFound("process", container_id)
        return await asyncio.to_thread(_usage, pid)

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""
        self.__known(container_id)
        await self.__keeper.attach(container_id, io)

    async def reopen_log(self, container_id: ContainerId) -> None:
        """As `SupportsLogReopen.reopen_log`."""
        self.__known(container_id)
        await self.__keeper.reopen_log(container_id)

    def __known(self, container_id: str) -> Path:
        folder = self.__folder / container_id
        if not folder.is_dir():
            raise NotFound("container", container_id)
        return folder


class ExecProgramRuntime(ProgramRuntime, SupportsExecProcess):
    """A `ProgramRuntime` whose engine runs further processes in a container."""

    @abstractmethod
    async def exec_command(self, bundle: Path, process: Mapping[str, Any], pid: int) -> Sequence[str]:
        """The command line that runs `process` in the container of a bundle, in the foreground, until the process ends.

        Called for a container that was started, and waits until that can take a process. `process` is as of
        `SupportsExecProcess.exec_process`; `pid` is that of the container's `command`. The command runs as `command` does, in
        `/`, with the streams of the exec; with `process["terminal"]` they are its controlling terminal. Its exit code is that
        of the process; 126 and 127 are those of a program that cannot be run, as in a shell.
        """

    async def exec_process(
        self, container_id: str, process: Mapping[str, Any], io: ProcessIO, started: Callable[[int], None]
    ) -> Exit:
        """As `SupportsExecProcess.exec_process`."""
        state = await self.state(container_id)
        if state.status is not OciStatus.RUNNING:
            raise NotFound("process", container_id)
        streams = ExecStreams(io, tty=bool(process.get("terminal")))
        with contextlib.closing(streams):
            argv = [*await self.exec_command(Path(state.bundle), process, state.pid)]
            ends = streams.open()
            if process.get("terminal"):  # a leader of a session gets the terminal that it opens
                argv = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(ends.stdin), *argv]
            stdio = {"stdin": ends.stdin, "stdout": ends.stdout, "stderr": ends.stderr}
            environment = {"PATH": os.environ.get("PATH", os.defpath)}
            child = children.spawn(argv, **stdio, env=environment, cwd="/", start_new_session=True)
            try:
                started(child.identity.pid)
                await streams.copy(child.ended)
            except BaseException:
                await asyncio.shield(_end(child))
                raise
            code = child.collect()
        return Exit.unknown() if code is None else Exit.from_returncode(code)


def _script(stdio: Stdio) -> str:
    """The shell in front of a program: wait for a line, connect named pipes, become the program."""
    pipes = {"<": stdio.stdin, ">": stdio.stdout, "2>": stdio.stderr}
    redirections = "".join(f" {sign}{shlex.quote(path)}" for sign, path in pipes.items() if path and not stdio.terminal)
    return f'read -r go <"$0" || exit 1; exec "$@"{redirections}'


def open_gate(gate: Path) -> bool:
    """Write a line to the shell; whether it reads. Raises `OSError`."""
    try:
        descriptor = os.open(gate, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
    try:
        os.write(descriptor, b"go\n")
    except BrokenPipeError:  # it has just ended
        return False
    finally:
        os.close(descriptor)
    return True


async def _end(child: Child) -> None:
    """Kill a child with its family, and reap it. The whole is one step, which goes on when its caller is cancelled again."""
    await processes.kill_family([child.identity])
    await child.ended()
    child.collect()


def _signal(process: processes.Identity, number: int) -> None:
    """Send a signal to a process and to what it has started."""
    for member in processes.family([process], processes.all_processes()):
        processes.send(member.identity, number)


def _usage(pid: int) -> CgroupUsage:
    """The usage of a process and its descendants, with that of those which it has waited for."""
    ticks = memory = tasks = 0
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        if (process := processes.read(pid)) is None:  # it has just ended
            continue
        ticks += process.cpu
        memory += process.rss
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                tasks += 1
                waiting += map(int, (thread / "children").read_text(encoding="ascii").split())
    return CgroupUsage(cpu=ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK"), memory=memory, tasks=tasks)
