"""A shim for containerd in one file: plain processes in a root of their own (chroot), and nothing more.

chmod +x plain_shim.py && ln -s $PWD/plain_shim.py /usr/local/bin/containerd-shim-plain-v1
ctr run --runtime io.containerd.plain.v1 ...
"""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import attrs

import crishim.shimv2
from crishim import BackendInfo, Exit, NotFound, OciRuntime
from crishim.interfaces.oci_runtime import OciState, OciStatus, Stdio
from crishim.linux import processes
from crishim.pods.bundle import load_config

CHROOT = shutil.which("chroot") or "chroot"
WAITING = f'read go < /proc/self/fd/$1; root=$2; shift 2; exec {CHROOT} "$root" "$@"'  # exec after a line


@attrs.define(eq=False)
class ChrootContainer:
    bundle: Path
    child: asyncio.subprocess.Process
    go: int
    status: OciStatus = OciStatus.CREATED

    @property
    def now(self) -> OciStatus:
        return self.status if self.child.returncode is None else OciStatus.STOPPED


class PlainRuntime(OciRuntime):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._containers: dict[str, ChrootContainer] = {}

    async def probe(self) -> BackendInfo:
        return BackendInfo(name="plain", version="1")

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        config = load_config(bundle)
        process, root = config["process"], bundle / config["root"]["path"]
        given, out, err = open_pipe(stdio.stdin, os.O_RDONLY), open_pipe(stdio.stdout), open_pipe(stdio.stderr)
        reader, go = os.pipe()
        command = ("sh", "-c", WAITING, "sh", str(reader), str(root), *process["args"])
        env = dict(variable.split("=", 1) for variable in process["env"])
        child = await asyncio.create_subprocess_exec(
            *command, stdin=given, stdout=out, stderr=err, pass_fds=(reader,), env=env, start_new_session=True
        )
        for descriptor in (given, out, err, reader):
            os.close(descriptor)
        processes.record(self._folder / container_id, child.pid)  # for `delete`, maybe by the next daemon
        self._containers[container_id] = ChrootContainer(bundle, child, go)
        return child.pid

    async def start(self, container_id: str) -> None:
        container = self._known(container_id)
        container.status = OciStatus.RUNNING
        os.write(container.go, b"go\n")

    async def state(self, container_id: str) -> OciState:
        container = self._known(container_id)
        pid = 0 if container.now is OciStatus.STOPPED else container.child.pid
        return OciState(id=container_id, status=container.now, pid=pid, bundle=str(container.bundle))

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        child = self._known(container_id).child
        if child.returncode is not None:
            raise NotFound("process", container_id)
        (os.killpg if everyone else os.kill)(child.pid, signal)

    async def delete(self, container_id: str) -> None:
        process = processes.recorded(self._folder / container_id)
        if process is None:
            raise NotFound("container", container_id)
        if processes.runs(process):
            os.killpg(process.pid, signal.SIGKILL)
            await processes.ended(process)
        (self._folder / container_id).unlink()
        if (container := self._containers.pop(container_id, None)) is not None:
            await container.child.wait()
            os.close(container.go)

    async def wait(self, container_id: str) -> Exit:
        return Exit.from_returncode(await self._known(container_id).child.wait())

    def _known(self, container_id: str) -> ChrootContainer:
        if container_id not in self._containers:
            raise NotFound("container", container_id)
        return self._containers[container_id]


def open_pipe(path: str, flags: int = os.O_RDWR) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK) if path else os.open(os.devnull, os.O_RDWR)
    os.set_blocking(descriptor, True)
    return descriptor


if __name__ == "__main__":
    crishim.shimv2.run(PlainRuntime, name="io.containerd.plain.v1")
