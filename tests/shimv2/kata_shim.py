"""A stand-in for kata's shim, as strict as the real one: its own process, one for each sandbox, over task v2.

    kata_shim.py FOLDER -namespace NS -address A -publish-binary B -id ID [-bundle DIR] start|delete|-v
    kata_shim.py FOLDER --version

The virtual machine is a sleeping process; what the real one leaves on the host (/run/vc/sbs and its like) are folders below
FOLDER. With a file FOLDER/answers it is a shim of another age: `json` speaks task v3 and says so in JSON, `protobuf` demands
BootstrapParams as containerd 2.3 and later write them, and answers alike. FOLDER/slow makes `delete` sleep for so many seconds,
FOLDER/forgets makes it free nothing and succeed, and FOLDER/keeps does so for a clean end. FOLDER/hangs-up breaks one Create of
a member off, FOLDER/lost makes Kill and Delete fail with a text of the kind that kata answers NOT_FOUND to. What the guest has
of its pod is in FOLDER/run/vc/vm/ID/guest.

Containers are chrooted children in sessions of their own, which outlive the shim as a guest would. What it does not
forgive, point by point, is what kata 4.1 was seen not to forgive; each point has its test in test_kata_shim.py.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from crishim._proto import cgroups_v1_pb2 as cgroups
from crishim._proto import shim_bootstrap_pb2 as bootstrap
from crishim._proto import shim_task_pb2 as pb
from crishim._proto import shim_types_pb2 as types
from crishim.errors import NotFound, Unimplemented, Unknown
from crishim.logs.descriptors import DescriptorReader, DescriptorWriter
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Server

YEAR_1 = -62135596800
FOLDERS = ("run/vc/sbs", "run/vc/vm", "run/kata-containers/shared/sandboxes")
SANDBOXES, MACHINES, SHARED = FOLDERS
OVERHEAD = "cgroup/kata_overhead"

READY_AFTER = 0.2
"""Seconds between a container's end and the moment from which it can be deleted."""

KIND = "io.kubernetes.cri.container-type"
SANDBOX = "io.kubernetes.cri.sandbox-id"


def configuration(bundle: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((bundle / "config.json").read_bytes())
    return config


def stamp(at: float | None) -> Timestamp:
    return Timestamp(seconds=YEAR_1) if at is None else Timestamp(seconds=int(at), nanos=int(at % 1 * 1e9))


class Process:
    """A process in the guest: a container's first one, or an exec."""

    def __init__(self, root: Path, spec: dict[str, Any], request: Any) -> None:
        self.root = root
        self.spec = spec
        self.request = request
        self.status = types.CREATED
        self.code = 0
        self.ended_at: float | None = None
        self.over = asyncio.Event()
        self.reported = asyncio.Event()
        self.stdin_over = asyncio.Event()
        self.child: asyncio.subprocess.Process | None = None
        self.terminal: int | None = None
        self.copies: list[asyncio.Task[None]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        if self.status != types.CREATED:
            raise Unknown("Container not ready, impossible to start")
        # The pipes are opened here and not before; an output without a reader cannot be opened at all.
        outs = {1: self.open_output(self.request.stdout), 2: self.open_output(self.request.stderr)}
        ends = self.make_ends(outs)
        root, spec = str(self.root), self.spec

        def enter() -> None:
            os.chroot(root)
            os.chdir(spec["cwd"])

        environment = dict(variable.split("=", 1) for variable in spec["env"])
        try:
            self.child = await asyncio.create_subprocess_exec(
                *spec["args"],
                stdin=ends[0],
                stdout=ends[1],
                stderr=ends[2],
                env=environment,
                start_new_session=True,
                preexec_fn=enter,
            )
        except OSError as error:
            raise Unknown(f"failed to create process: {error}") from error
        finally:
            for fd in {end for end in ends if end > 2}:
                os.close(fd)
        self.status = types.RUNNING
        self.tasks.add(asyncio.create_task(self.follow()))

    def open_output(self, path: str) -> int | None:
        if not path:
            return None
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            raise Unknown(f"open {path}: {error.strerror}") from error

    def make_ends(self, outs: dict[int, int | None]) -> list[int]:
        nothing = subprocess.DEVNULL
        if self.request.terminal:
            self.terminal, slave = pty.openpty()
            if (out := outs[1]) is not None:
                self.copies.append(asyncio.create_task(self.copy(os.dup(self.terminal), out)))
            if self.request.stdin:
                self.tasks.add(asyncio.create_task(self.copy_in(os.dup(self.terminal))))
            return [slave, slave, slave]
        ends = [nothing, nothing, nothing]
        if self.request.stdin:
            ends[0], into = os.pipe()
            self.tasks.add(asyncio.create_task(self.copy_in(into)))
        for number, out in outs.items():
            if out is not None:
                source, ends[number] = os.pipe()
                self.copies.append(asyncio.create_task(self.copy(source, out)))
        return ends

    async def copy(self, source: int, target: int) -> None:
        """Guest to pipe, at the speed of the pipe's reader."""
        reader, writer = DescriptorReader(source), DescriptorWriter(target)
        with contextlib.suppress(BrokenPipeError):
            while data := await reader.read():
                await writer.write(data)
        reader.close()
        writer.close()

    async def copy_in(self, target: int) -> None:
        reader = DescriptorReader(os.open(self.request.stdin, os.O_RDONLY | os.O_NONBLOCK))
        writer = DescriptorWriter(target)
        with contextlib.suppress(BrokenPipeError):
            while data := await reader.read():
                await writer.write(data)
        reader.close()
        writer.close()
        self.stdin_over.set()

    async def follow(self) -> None:
        assert self.child is not None
        code = await self.child.wait()
        self.end(code if code >= 0 else 128 - code)

    def end(self, code: int) -> None:
        if self.status == types.STOPPED:
            return
        self.status, self.code, self.ended_at = types.STOPPED, code, time.time()
        self.over.set()
        self.tasks.add(asyncio.create_task(self.report()))

    async def report(self) -> None:
        """The exit is reported when all output was read."""
        if self.copies:
            await asyncio.wait(self.copies)
        self.reported.set()

    def vm_died(self) -> None:
        self.signal(signal.SIGKILL)
        self.end(255)
        self.reported.set()  # at once

    def signal(self, number: int) -> None:
        if self.child is None or self.child.returncode is not None:
            return
        caught = 0
        for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith(("SigCgt:", "SigIgn:")):
                caught |= int(line.split()[1], 16)
        if number == signal.SIGTERM and not caught >> (number - 1) & 1:
            number = signal.SIGKILL  # the guest's first process would not mind it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)


class Shim:
    """The service of one sandbox."""

    def __init__(self, folder: Path, sandbox_id: str) -> None:
        self.folder = folder
        self.sandbox_id = sandbox_id
        self.processes: dict[str, Process] = {}
        self.execs: dict[tuple[str, str], Process] = {}
        self.vm: asyncio.subprocess.Process | None = None
        self.watching: set[asyncio.Task[None]] = set()

    def routes(self) -> dict[tuple[str, str], Callable[[Request], Awaitable[bytes]]]:
        calls: dict[type[Message], Callable[[Any], Awaitable[Message]]] = {
            pb.CreateTaskRequest: self.create,
            pb.StartRequest: self.start,
            pb.StateRequest: self.state,
            pb.WaitRequest: self.wait,
            pb.KillRequest: self.kill,
            pb.DeleteRequest: self.delete,
            pb.ExecProcessRequest: self.exec,
            pb.CloseIORequest: self.close_io,
            pb.ResizePtyRequest: self.resize,
            pb.PauseRequest: self.pause,
            pb.ResumeRequest: self.resume,
            pb.UpdateTaskRequest: self.update,
            pb.StatsRequest: self.stats,
            pb.PidsRequest: self.pids,
            pb.CheckpointTaskRequest: self.checkpoint,
            pb.ConnectRequest: self.connect,
            pb.ShutdownRequest: self.shutdown,
        }

        def route(kind: type[Message], call: Callable[[Any], Awaitable[Message]]) -> Callable[[Request], Awaitable[bytes]]:
            async def serve(request: Request) -> bytes:
                return (await call(kind.FromString(request.payload))).SerializeToString()

            return serve

        names = {kind: kind.DESCRIPTOR.name.removesuffix("Request") for kind in calls}
        renamed = {"CreateTask": "Create", "ExecProcess": "Exec", "UpdateTask": "Update", "CheckpointTask": "Checkpoint"}
        service = f"containerd.task.v{2 if age(self.folder) == 'plain' else 3}.Task"
        return {(service, renamed.get(name, name)): route(kind, calls[kind]) for kind, name in names.items()}

    def of(self, request: Any) -> Process:
        exec_id = getattr(request, "exec_id", "")
        process = self.execs.get((request.id, exec_id)) if exec_id else self.processes.get(request.id)
        if process is None:
            raise NotFound("container", request.id)
        return process

    async def create(self, request: pb.CreateTaskRequest) -> Message:
        bundle = Path(request.bundle)
        config = configuration(bundle)
        if request.id == self.sandbox_id:
            if self.vm is not None:
                raise Unknown("cannot create another sandbox in sandbox")
            await self.boot(config)
        elif self.vm is None or self.vm.returncode is not None:
            raise Unknown("the sandbox is not running")
        elif (self.folder / "hangs-up").exists():
            (self.folder / "hangs-up").unlink()
            raise Unknown("rpc error: code = Internal desc = transport closed: EOF")
        root = Path(config["root"]["path"])
        root = root if root.is_absolute() else bundle / root
        program = str(root / config["process"]["args"][0].lstrip("/"))
        if request.id == self.sandbox_id and not os.access(program, os.X_OK):
            raise Unknown("the sandbox's own container has no program in its root")
        (self.folder / SANDBOXES / self.sandbox_id / request.id).touch()
        self.processes[request.id] = Process(root, config["process"], request)
        assert self.vm is not None
        return pb.CreateTaskResponse(pid=self.vm.pid)

    async def boot(self, config: dict[str, Any]) -> None:
        networks = [space.get("path", "") for space in config["linux"]["namespaces"] if space["type"] == "network"]
        if not (networks and os.access(networks[0], os.F_OK)):
            raise Unknown("the sandbox has no network namespace")
        # It says a lot while it boots: who does not empty the log does not get a machine.
        await asyncio.to_thread(os.write, 2, b"time=now level=info msg=booting\n" * 8000)
        for kind in (*FOLDERS, OVERHEAD):
            (self.folder / kind / self.sandbox_id).mkdir(parents=True)
        name = f"qemu sandbox-{self.sandbox_id}"
        program = shutil.which("sleep")
        self.vm = await asyncio.create_subprocess_exec(name, "infinity", executable=program, start_new_session=True)
        (self.folder / MACHINES / self.sandbox_id / "pid").write_text(str(self.vm.pid))
        guest = {
            "hostname": config.get("hostname", ""),
            "sysctl": config["linux"].get("sysctl", {}),
            "shm": [mount["type"] for mount in config["mounts"] if mount["destination"] == "/dev/shm"],
        }
        (self.folder / MACHINES / self.sandbox_id / "guest").write_text(json.dumps(guest))
        self.watching.add(asyncio.create_task(self.watch_vm(self.vm)))

    async def watch_vm(self, machine: asyncio.subprocess.Process) -> None:
        await machine.wait()
        for process in (*self.processes.values(), *self.execs.values()):
            process.vm_died()

    async def start(self, request: pb.StartRequest) -> Message:
        process = self.of(request)
        await process.start()
        assert process.child is not None
        assert self.vm is not None
        inside = self.folder / MACHINES / self.sandbox_id / "processes"
        inside.mkdir(exist_ok=True)
        (inside / str(process.child.pid)).touch()
        return pb.StartResponse(pid=self.vm.pid)

    async def state(self, request: pb.StateRequest) -> Message:
        process = self.of(request)
        return pb.StateResponse(
            id=request.id,
            exec_id=request.exec_id,
            status=process.status,
            pid=self.vm.pid if self.vm else 0,
            exit_status=process.code,
            exited_at=stamp(process.ended_at),
        )

    async def wait(self, request: pb.WaitRequest) -> Message:
        process = self.of(request)
        await process.reported.wait()
        at = None if request.exec_id else process.ended_at
        return pb.WaitResponse(exit_status=process.code, exited_at=stamp(at))

    async def kill(self, request: pb.KillRequest) -> Message:
        process = self.of(request)
        self.lose(request)
        while process.status == types.RUNNING and self.vm_hangs():  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the guest's agent does not answer
        process.signal(request.signal)
        return Empty()

    def vm_hangs(self) -> bool:
        try:
            return self.vm is not None and Path(f"/proc/{self.vm.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def lose(self, request: Any) -> None:
        if (self.folder / "lost").exists():
            raise NotFound("file", request.id, "cgroup.procs does not exist")

    async def delete(self, request: pb.DeleteRequest) -> Message:
        process = self.of(request)
        self.lose(request)
        young = process.ended_at is not None and time.time() - process.ended_at < READY_AFTER
        is_sandbox = request.id == self.sandbox_id
        dead_vm = self.vm is not None and self.vm.returncode is not None
        if process.status == types.RUNNING or (young and not request.exec_id and not (is_sandbox and dead_vm)):
            raise Unknown("Container not ready or stopped, impossible to delete")
        if request.exec_id:
            del self.execs[request.id, request.exec_id]
        else:
            del self.processes[request.id]
            (self.folder / SANDBOXES / self.sandbox_id / request.id).unlink()
            if is_sandbox:
                self.stop_vm()
        return pb.DeleteResponse(pid=0, exit_status=process.code, exited_at=stamp(process.ended_at))

    def stop_vm(self) -> None:
        if self.vm is not None and self.vm.returncode is None:
            self.vm.kill()

    async def exec(self, request: pb.ExecProcessRequest) -> Message:
        container = self.of(pb.StateRequest(id=request.id))
        if container.status != types.RUNNING:
            raise Unknown("the container is not running")
        self.execs[request.id, request.exec_id] = Process(container.root, json.loads(request.spec.value), request)
        return Empty()

    async def close_io(self, request: pb.CloseIORequest) -> Message:
        await self.of(request).stdin_over.wait()
        return Empty()

    async def resize(self, request: pb.ResizePtyRequest) -> Message:
        terminal = self.of(request).terminal
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", request.height, request.width, 0, 0))
        return Empty()

    async def pause(self, request: pb.PauseRequest) -> Message:
        process = self.of(request)
        process.signal(signal.SIGSTOP)
        process.status = types.PAUSED
        return Empty()

    async def resume(self, request: pb.ResumeRequest) -> Message:
        process = self.of(request)
        process.signal(signal.SIGCONT)
        process.status = types.RUNNING
        return Empty()

    async def update(self, request: pb.UpdateTaskRequest) -> Message:
        self.of(request)
        json.loads(request.resources.value)
        return Empty()

    async def stats(self, request: pb.StatsRequest) -> Message:
        self.of(request)
        metrics = cgroups.Metrics(cpu=cgroups.CPUStat(usage=cgroups.CPUUsage(total=5_000_000)))
        metrics.memory.usage.usage = 4096
        value = AnyMessage(type_url="io.containerd.cgroups.v1.Metrics", value=metrics.SerializeToString())
        return pb.StatsResponse(stats=value)

    async def pids(self, request: pb.PidsRequest) -> Message:
        self.of(request)
        return pb.PidsResponse(processes=[types.ProcessInfo(pid=self.vm.pid if self.vm else 0)])

    async def checkpoint(self, request: pb.CheckpointTaskRequest) -> Message:
        raise Unimplemented("Checkpoint")

    async def connect(self, request: pb.ConnectRequest) -> Message:
        return pb.ConnectResponse(shim_pid=os.getpid(), task_pid=self.vm.pid if self.vm else 0)

    async def shutdown(self, request: pb.ShutdownRequest) -> Message:
        if not self.processes:
            self.stop_vm()
            for kind in () if (self.folder / "keeps").exists() else (*FOLDERS, OVERHEAD):
                shutil.rmtree(self.folder / kind / self.sandbox_id, ignore_errors=True)
            os._exit(0)
        return Empty()


def age(folder: Path) -> str:
    """How `start` answers."""
    try:
        return (folder / "answers").read_text()
    except OSError:
        return "plain"


def answer(folder: Path, address: str) -> bytes:
    match age(folder):
        case "json":
            return json.dumps({"version": 3, "address": address, "protocol": "ttrpc"}).encode()
        case "protobuf":
            return bootstrap.BootstrapResult(version=3, address=address, protocol="ttrpc").SerializeToString()
    return address.encode()


async def serve(folder: Path, sandbox_id: str, bound: socket.socket) -> None:
    server = Server(Shim(folder, sandbox_id).routes())
    await server.listen(bound)
    await asyncio.Event().wait()


def start(folder: Path, task_id: str) -> None:
    if age(folder) == "protobuf":
        params = bootstrap.BootstrapParams.FromString(sys.stdin.buffer.read())
        if params.instance_id != task_id:
            sys.exit("the shim was started through the deprecated API")
    annotations = configuration(Path.cwd()).get("annotations", {})
    member = annotations.get(KIND) == "container"
    owner = annotations[SANDBOX] if member else task_id
    path = folder / "s" / hashlib.sha256(owner.encode()).hexdigest()[:16]
    if not member:
        path.parent.mkdir(parents=True, exist_ok=True)
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(path))
        bound.listen()
        launch(folder, task_id, bound)
    (Path.cwd() / "address").write_text(f"unix://{path}")
    sys.stdout.buffer.write(answer(folder, f"unix://{path}"))


def launch(folder: Path, sandbox_id: str, bound: socket.socket) -> None:
    if child := os.fork():
        (Path.cwd() / "shim.pid").write_text(str(child))
        return
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    try:
        # Without a reader this fails, as it does without a pipe: then there is no shim.
        log = os.open("log", os.O_WRONLY | os.O_NONBLOCK)
        os.set_blocking(log, True)
        os.dup2(log, 2)
        os.dup2(log, 1)
        asyncio.run(serve(folder, sandbox_id, bound))
    finally:
        os._exit(1)


def delete(folder: Path, task_id: str) -> None:
    """What is left of a task whose shim is dead. The machine goes only with the last of its sandbox."""
    with contextlib.suppress(OSError):
        time.sleep(float((folder / "slow").read_text()))
    annotations = configuration(Path.cwd()).get("annotations", {})
    owner = annotations.get(SANDBOX, task_id)
    known = folder / SANDBOXES / owner
    (known / task_id).unlink(missing_ok=True)
    if known.is_dir() and not any(known.iterdir()) and not (folder / "forgets").exists():
        machine = folder / MACHINES / owner
        for name in [*(path.name for path in (machine / "processes").glob("*")), (machine / "pid").read_text()]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(name), signal.SIGKILL)
        for kind in (SANDBOXES, MACHINES):  # the folder of shared files and the cgroup stay
            shutil.rmtree(folder / kind / owner)
    response = pb.DeleteResponse(exit_status=137, exited_at=stamp(time.time()))
    sys.stdout.buffer.write(response.SerializeToString())


def main() -> None:
    folder, *args = sys.argv[1:]
    if args[-1] == "-v":
        sys.stdout.write("containerd-shim-kata-v2:\n  Version:  1.7.25\n  Revision: unknown\n")
        return
    if args == ["--version"]:
        sys.stdout.write("kata containers shim (Golang): id: io.containerd.kata.v2, version: 4.1.0, commit: stand-in\n")
        return
    task_id = args[args.index("-id") + 1]
    {"start": start, "delete": delete}[args[-1]](Path(folder), task_id)


if __name__ == "__main__":
    main()
