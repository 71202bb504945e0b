"""Pods of the kubelet and tasks of containerd as containers of LXC, with one class.

The program of a container is `lxc_run.py`, beside it. `create` waits until LXC has made the whole container and its hook waits
at a gate, and `start` opens that. Files in the folder `lxc` of a bundle: `request`, `pid` and `init` (of the first process; with
its start time), `gate`, `log` (LXC's errors), `started`, `failed`.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import attrs
from lxc_config import cgroup_of, items, monitor_cgroup

import crishim.shimv2
from crishim import BackendContext, BackendInfo, Exit, Feature, NetnsSource, NotFound, Plugin
from crishim import FailedPrecondition, ProcessIO, Unavailable
from crishim.errors import CreateRefused
from crishim.interfaces.keeper import Keeper
from crishim.interfaces.oci_runtime import OciState, OciStatus, Stdio, SupportsExecProcess, SupportsUpdateResources
from crishim.linux import oom, processes
from crishim.linux.cgroups import Cgroups, read_text
from crishim.linux.children import Child, children
from crishim.linux.roots import open_in_root
from crishim.logs.execution import ExecStreams
from crishim.logs.stdio import ChildEnds
from crishim.model.features import OCI
from crishim.model.stats import CgroupUsage
from crishim.oci.ignores import ignores
from crishim.oci.resources import cgroup_files
from crishim.pods.bundle import load_config
from crishim.pods.host import cgroup_v2, host
from crishim.pods.program import ProgramRuntime
from crishim.pods.usage import MeasuredPods, cgroup_usage

RUNNER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("lxc_run.py")))
UNLOCK, PEER = 0x40045431, 0x5441  # TIOCSPTLCK, TIOCGPTPEER (ioctl_tty(2))
SUPPORTED = OCI - {
    Feature.AMBIENT_CAPABILITIES,
    Feature.APPARMOR,
    Feature.CDI_DEVICES,
    Feature.MOUNT_OPTIONS,
    Feature.MOUNT_PROPAGATION,
    Feature.OCI_CHANGES,
    Feature.SELINUX,
    Feature.UNIFIED,
}


class LxcRuntime(ProgramRuntime, SupportsExecProcess, SupportsUpdateResources):
    """Runs each bundle as a container of LXC."""

    def __init__(self, folder: Path, keeper: Keeper | None = None) -> None:
        super().__init__(folder, keeper)
        self._path = folder / "lxc"  # of the names of sockets and locks
        self._path.mkdir(exist_ok=True)
        self._v2 = cgroup_v2()
        self._cgroups = Cgroups(v2=self._v2)

    async def probe(self) -> BackendInfo:
        try:
            version = ctypes.CDLL("liblxc.so.1").lxc_get_version
        except OSError as error:
            raise Unavailable(f"{error}: apt-get install lxc") from error
        version.restype = ctypes.c_char_p
        return BackendInfo(name="lxc", version=version().decode(), netns=NetnsSource.LIBRARY, supported=SUPPORTED)

    def command(self, bundle: Path, config: Mapping[str, Any]) -> Sequence[str]:
        return (*RUNNER, "start", str(bundle / "lxc" / "request"))

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        await asyncio.to_thread(self._prepare, container_id, bundle, stdio)
        await super().create(container_id, bundle, attrs.evolve(stdio, stdin="", stdout="", stderr=""))
        try:
            await super().start(container_id)  # lets the runner make the container
            await self._reached(container_id, bundle, (bundle / "lxc" / "pid").exists)
            pid = processes.read_pid(bundle / "lxc" / "pid")
            processes.record(bundle / "lxc" / "init", pid)
        except BaseException:
            await asyncio.shield(self.delete(container_id))
            raise
        return pid

    def _prepare(self, container_id: str, bundle: Path, stdio: Stdio) -> None:
        config, files = load_config(bundle), bundle / "lxc"
        files.mkdir(mode=0o700)
        os.mkfifo(files / "gate", 0o600)
        request = {
            "name": container_id,
            "path": str(self._path),
            "args": config["process"]["args"],
            "failed": str(files / "failed"),
        }
        request["pipes"] = ["", "", ""] if stdio.terminal else [stdio.stdin, stdio.stdout, stdio.stderr]
        request["items"] = list(items(bundle, config, v2=self._v2))
        (files / "request").write_text(json.dumps(request))

    async def _reached(self, container_id: str, bundle: Path, done: Callable[[], bool]) -> None:
        """Return when something is done. Raises `CreateRefused` with LXC's first error if it could not be."""
        while not done() and (await super().state(container_id)).status is not OciStatus.STOPPED:
            await asyncio.sleep(0.005)
        if (bundle / "lxc" / "failed").exists() or not (bundle / "lxc" / "pid").exists():
            errors = read_text(bundle / "lxc" / "log").splitlines() or ["LXC has failed without a message"]
            raise CreateRefused(errors[0].split(" - ", 2)[-1])

    async def start(self, container_id: str) -> None:
        state = await self.state(container_id)
        if state.status is not OciStatus.CREATED:
            raise FailedPrecondition(state.status.value, OciStatus.CREATED.value, f"container {container_id}")
        files, command = Path(state.bundle) / "lxc", Path(f"/proc/{state.pid}/cmdline")
        without_program = {read_text(command), ""}
        (files / "started").touch()
        with suppress(OSError):  # if the hook has ended
            gate = os.open(files / "gate", os.O_WRONLY | os.O_NONBLOCK)
            os.write(gate, b"go\n")
            os.close(gate)
        await self._reached(container_id, files.parent, lambda: read_text(command) not in without_program)

    async def state(self, container_id: str) -> OciState:
        state = await super().state(container_id)
        files = Path(state.bundle) / "lxc"
        if state.status is OciStatus.STOPPED or (first := processes.recorded(files / "init")) is None:
            return state
        status = OciStatus.RUNNING if (files / "started").exists() else OciStatus.CREATED
        return attrs.evolve(state, status=status, pid=first.pid)

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        state = await self.state(container_id)
        if state.status is not OciStatus.RUNNING:
            return await super().kill(container_id, signal)
        for pid in self._cgroups.pids(await self._cgroup(container_id)) if everyone else (state.pid,):
            if (process := processes.read(pid)) is not None:
                processes.send(process.identity, signal)

    async def wait(self, container_id: str) -> Exit:
        first = processes.recorded(Path((await super().state(container_id)).bundle) / "lxc" / "init")
        end = await super().wait(container_id)
        killed = end.code == 137 and first is not None and await asyncio.to_thread(oom.killed_for_memory, first)
        return attrs.evolve(end, oom=killed)

    async def delete(self, container_id: str) -> None:
        cgroup = await self._cgroup(container_id)
        await super().delete(container_id)
        monitor = monitor_cgroup(cgroup)
        for folder in (f"{cgroup}/.lxc", cgroup, f"{monitor}/lxc.pivot", monitor):  # LXC leaves some, and all if it was killed
            await asyncio.to_thread(self._cgroups.remove, folder)

    async def _cgroup(self, container_id: str) -> str:
        bundle = Path((await super().state(container_id)).bundle)
        return cgroup_of(bundle, load_config(bundle))

    async def cgroup_usage(self, container_id: str) -> CgroupUsage:
        return await asyncio.to_thread(cgroup_usage, self._cgroups, await self._cgroup(container_id))

    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None:
        self._cgroups.write(await self._cgroup(container_id), cgroup_files(resources, v2=self._v2))

    async def exec_process(
        self, container_id: str, process: Mapping[str, Any], io: ProcessIO, started: Callable[[int], None]
    ) -> Exit:
        state = await self.state(container_id)
        if state.status is not OciStatus.RUNNING:
            raise NotFound("process", container_id)
        user = process["user"]
        request = {"name": container_id, "path": str(self._path), "items": [], "uid": user["uid"], "gid": user["gid"]}
        request |= {"args": process["args"], "env": process.get("env", ()), "cwd": process["cwd"]}
        request |= {"groups": user.get("additionalGids", ()), "oom_score_adj": process.get("oomScoreAdj", 0)}
        streams = ExecStreams(io, tty=bool(process.get("terminal")))
        with closing(streams), os.fdopen(os.memfd_create("exec"), "wb") as source:
            source.write(json.dumps(request).encode())
            source.flush()
            child, reader = self._spawn_exec(source.fileno(), streams, state.pid if process.get("terminal") else 0)
            try:
                if pid := await asyncio.to_thread(os.read, reader, 20):
                    started(int(pid))
                await streams.copy(child.ended)
            except BaseException:
                await asyncio.shield(processes.kill_family([child.identity]))
                raise
            finally:
                os.close(reader)
                await child.ended()
                code = child.collect()
        if not pid:
            raise NotFound("process", container_id)
        return Exit.unknown() if code is None else Exit.from_returncode(code)

    def _spawn_exec(self, source: int, streams: ExecStreams, terminal_of: int) -> tuple[Child, int]:
        """The process of an exec, and the pipe to which it writes the pid."""
        reader, writer = os.pipe()
        ends = terminal_in(terminal_of, streams) if terminal_of else streams.open()
        stdio = {"stdin": ends.stdin, "stdout": ends.stdout, "stderr": ends.stderr}
        try:
            words = [*RUNNER, "exec", str(source), str(writer)]
            return children.spawn(words, **stdio, pass_fds=(source, writer), start_new_session=True), reader
        finally:
            for descriptor in (writer, *((ends.stdin,) if terminal_of else ())):
                os.close(descriptor)


def terminal_in(pid: int, streams: ExecStreams) -> ChildEnds:
    """A new terminal of the /dev/pts in a container."""
    master = open_in_root(Path(f"/proc/{pid}/root"), "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    streams.adopt_terminal(master)
    fcntl.ioctl(master, UNLOCK, bytes(4))
    slave = fcntl.ioctl(master, PEER, os.O_RDWR | os.O_NOCTTY)
    return ChildEnds(slave, slave, slave)


def build(context: BackendContext) -> MeasuredPods:
    return MeasuredPods(LxcRuntime(context.runtime_state, context.keeper), context, host())


plugin = Plugin(build=build, ignores=ignores, supported=SUPPORTED, needs_node=True)


def shim() -> None:
    """`containerd-shim-lxc-v1`, the same behind containerd."""
    crishim.shimv2.run(LxcRuntime, name="io.containerd.lxc.v1")


if __name__ == "__main__":
    shim()
