"""Pods of the kubelet and tasks of containerd as containers of LXC, with one class.

The program of a container is `lxc_run.py`, which LXC's hook `start-host` holds at the gate until the start.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lxc_config import cgroups_of, items

import crishim.shimv2
from crishim import BackendContext, BackendInfo, Exit, Feature, NetnsSource, NotFound, Plugin, ProcessIO, Unavailable
from crishim.interfaces.oci_runtime import OciStatus, Stdio, SupportsExecProcess, SupportsUpdateResources
from crishim.linux import processes
from crishim.linux.cgroups import Cgroups
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
from crishim.pods.supervised import FILES, SupervisedRuntime
from crishim.pods.usage import MeasuredPods, cgroup_usage

READ_ONLY = 'mount -o bind,ro "$0" "$0" && exec "$0" "$@"'
PYTHON = ("unshare", "--mount", "--propagation=slave", "sh", "-c", READ_ONLY, os.path.realpath(sys.executable), "-I", "-S")
RUNNER = (*PYTHON, str(Path(__file__).with_name("lxc_run.py")))
"""Python from a read-only mount: a container whose program is `/proc/self/exe` runs it, and might write it (CVE-2019-5736)."""
UNLOCK, PEER = 0x40045431, 0x5441  # TIOCSPTLCK, TIOCGPTPEER (ioctl_tty(2))
SUPPORTED = OCI - {Feature.AMBIENT_CAPABILITIES, Feature.APPARMOR, Feature.CDI_DEVICES, Feature.MOUNT_OPTIONS}
SUPPORTED -= {Feature.MOUNT_PROPAGATION, Feature.BIDIRECTIONAL_MOUNTS, Feature.OCI_CHANGES, Feature.SELINUX, Feature.UNIFIED}


class LxcRuntime(SupervisedRuntime, SupportsExecProcess, SupportsUpdateResources):
    """Runs each bundle as a container of LXC. The folder `lxc` names their sockets."""

    def __init__(self, folder: Path, *keeper: Any) -> None:
        super().__init__(folder, *keeper)
        self._path = folder / "lxc"
        self._path.mkdir(exist_ok=True)
        self._cgroups = Cgroups(v2=cgroup_v2())

    async def probe(self) -> BackendInfo:
        try:
            version = ctypes.CDLL("liblxc.so.1").lxc_get_version
        except OSError as error:
            raise Unavailable(f"{error}: apt-get install lxc") from error
        version.restype = ctypes.c_char_p
        return BackendInfo(name="lxc", version=version().decode(), netns=NetnsSource.LIBRARY, supported=SUPPORTED)

    def command(self, bundle: Path, config: Mapping[str, Any]) -> Sequence[str]:
        return (*RUNNER, "start", str(bundle / FILES / "request"))

    def write_files(self, container_id: str, bundle: Path, config: Mapping[str, Any], stdio: Stdio) -> None:
        files = bundle / FILES
        request = {"name": container_id, "path": str(self._path), "args": config["process"]["args"], "files": str(files)}
        request["pipes"] = ["", "", ""] if stdio.terminal else [stdio.stdin, stdio.stdout, stdio.stderr]
        request["items"] = list(items(bundle, files, config, v2=self._cgroups.v2))
        (files / "request").write_text(json.dumps(request))

    async def delete(self, container_id: str) -> None:
        cgroup, monitor = await self._cgroups_of(container_id)
        await super().delete(container_id)
        for folder in (f"{cgroup}/.lxc", cgroup, f"{monitor}/lxc.pivot", monitor):  # LXC leaves some, and all if it was killed
            await asyncio.to_thread(self._cgroups.remove, folder)

    async def _cgroups_of(self, container_id: str) -> tuple[str, str]:
        bundle = Path((await self.state(container_id)).bundle)
        return cgroups_of(bundle, load_config(bundle))

    async def cgroup_usage(self, container_id: str) -> CgroupUsage:
        return await asyncio.to_thread(cgroup_usage, self._cgroups, (await self._cgroups_of(container_id))[0])

    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None:
        files = cgroup_files(resources, v2=self._cgroups.v2)  # a lower memory limit reclaims before its write returns
        await asyncio.to_thread(self._cgroups.write, (await self._cgroups_of(container_id))[0], files)

    async def exec_process(
        self, container_id: str, process: Mapping[str, Any], io: ProcessIO, started: Callable[[int], None]
    ) -> Exit:
        state = await self.state(container_id)
        if state.status is not OciStatus.RUNNING:
            raise NotFound("process", container_id)
        request = {"name": container_id, "path": str(self._path), "items": [], "process": process}
        streams = ExecStreams(io, tty=bool(process.get("terminal")))
        with closing(streams), os.fdopen(os.memfd_create("exec"), "wb", buffering=0) as source:
            source.write(json.dumps(request).encode())
            child, reader = self._spawn_exec(source.fileno(), streams, state.pid if process.get("terminal") else 0)
            first = child.identity
            try:
                if pid := await asyncio.to_thread(os.read, reader, 20):
                    started(int(pid))
                    first = found.identity if (found := processes.read(int(pid))) else first
                await streams.copy(child.ended)
            except BaseException:
                await asyncio.shield(end_exec(child, first))
                raise
            finally:
                os.close(reader)
            code = child.collect()
        if not pid:
            raise NotFound("process", container_id)
        return Exit.unknown() if code is None else Exit.from_returncode(code)

    def _spawn_exec(self, source: int, streams: ExecStreams, terminal_of: int) -> tuple[Child, int]:
        """The process of an exec, and the pipe to which it writes the pid of what it runs."""
        reader, writer = os.pipe()
        ends = terminal_in(terminal_of, streams) if terminal_of else streams.open()
        stdio = {"stdin": ends.stdin, "stdout": ends.stdout, "stderr": ends.stderr}
        try:
            words = [*RUNNER, "exec", str(source), str(writer)]
            return children.spawn(words, **stdio, pass_fds=(source, writer), start_new_session=True), reader
        finally:
            for descriptor in (writer, *((ends.stdin,) if terminal_of else ())):
                os.close(descriptor)


async def end_exec(child: Child, first: processes.Identity) -> None:
    """One step for `shield`: with a second cancellation it goes on, and leaves no zombie."""
    await processes.kill_family([first])  # which its parent, `child`, then reaps
    await child.ended()
    await processes.kill_family([child.identity])  # what is left in its session
    child.collect()


def terminal_in(pid: int, streams: ExecStreams) -> ChildEnds:
    """A new terminal of the /dev/pts in a container."""
    master = open_in_root(Path(f"/proc/{pid}/root"), "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    streams.adopt_terminal(master)
    fcntl.ioctl(master, UNLOCK, bytes(4))
    return ChildEnds(*3 * (fcntl.ioctl(master, PEER, os.O_RDWR | os.O_NOCTTY),))


def build(context: BackendContext) -> MeasuredPods:
    return MeasuredPods(LxcRuntime(context.runtime_state, context.keeper), context, host())


plugin = Plugin(build=build, ignores=ignores, supported=SUPPORTED, needs_node=True)


def shim() -> None:
    """`containerd-shim-lxc-v1`, the same behind containerd."""
    crishim.shimv2.run(LxcRuntime, name="io.containerd.lxc.v1")
