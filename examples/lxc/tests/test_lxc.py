"""The exam for pods, and the same class behind containerd; needs root and LXC."""

import asyncio
import contextlib
import ctypes.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lxc_backend import LxcRuntime, plugin

from crishim import Backend, BackendContext, Exit, ProcessIO
from crishim.interfaces.oci_runtime import Stdio
from crishim.linux import processes
from crishim.model.process import TerminalSize
from crishim.testing.conformance import BackendConformance
from crishim.testing.conformance.offers import Sink
from crishim.testing.conformance.runtimes import OciRuntimeConformance
from crishim.testing.roots import APPLETS

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root"),
    pytest.mark.skipif(ctypes.util.find_library("lxc") is None, reason="needs LXC: apt-get install lxc"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox: apt-get install busybox-static"),
]


def busybox(root: Path) -> None:
    """A root file system of Debian's static busybox."""
    for folder in ("bin", "proc", "dev", "sys", "tmp"):
        (root / folder).mkdir(parents=True)
    shutil.copy2(str(shutil.which("busybox")), root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).hardlink_to(root / "bin" / "busybox")


def write_bundle(bundle: Path, argv: tuple[str, ...], **linux: Any) -> None:
    """A bundle with new namespaces and the usual mounts."""
    busybox(bundle / "rootfs")
    process = {"args": list(argv), "env": ["PATH=/bin", "LINES=two\nlines"], "user": {"uid": 0, "gid": 0}, "cwd": "/"}
    process["capabilities"] = {"bounding": ["CAP_KILL"]}
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
    ]
    spaces = [{"type": kind} for kind in ("mount", "pid", "network", "ipc", "uts")]
    linux = {"namespaces": spaces, "cgroupsPath": f"/{bundle.name}", **linux}
    config = {"process": process, "root": {"path": "rootfs"}, "mounts": mounts, "linux": linux}
    (bundle / "config.json").write_text(json.dumps(config))


class TestPods(BackendConformance):
    """Pods keep the contract, over restarts, too."""

    needs_node = True
    ignores = plugin.ignores

    async def make_backend(self, context: BackendContext) -> Backend:
        return plugin.build(context)


class TestBundles(OciRuntimeConformance):
    """Bundles keep the contract, as under containerd."""

    async def make_runtime(self, folder: Path) -> LxcRuntime:
        return LxcRuntime(folder)

    def write_bundle(self, bundle: Path, argv: tuple[str, ...]) -> None:
        write_bundle(bundle, argv)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / f"lxc-{os.getpid()}"
    folder.mkdir()
    return folder


async def run(bundle: Path, stdio: Stdio, during: Callable[[LxcRuntime], Awaitable[None]] | None = None) -> Exit:
    """The exit of a bundle's container, which is killed after `during`."""
    runtime = LxcRuntime(bundle.parent)
    await runtime.create("one", bundle, stdio)
    try:
        await runtime.start("one")
        if during is not None:
            await during(runtime)
            await runtime.kill("one", signal.SIGKILL)
        return await asyncio.wait_for(runtime.wait("one"), 60)
    finally:
        await runtime.delete("one")


def test_variables_and_capabilities(bundle: Path, tmp_path: Path) -> None:
    """A variable may have two lines; a process has no more capabilities than config.json grants."""
    write_bundle(bundle, ("sh", "-c", 'echo "$LINES"; while read -r name value; do echo $name $value; done </proc/self/status'))
    assert 0 == asyncio.run(run(bundle, Stdio(log_path=str(tmp_path / "log")))).code
    lines = [line.split(" ", 3)[3] for line in (tmp_path / "log").read_text().splitlines()]
    assert ["two", "lines"] == lines[:2]
    assert "CapEff: 0000000000000020" in lines


def program_of(pid: int) -> tuple[str, int]:
    """The program of a process, and whether it is on a read-only mount."""
    link = Path(f"/proc/{pid}/exe")
    return link.readlink().name, os.statvfs(link).f_flag & os.ST_RDONLY


def test_what_runs_for_a_container_cannot_be_written(bundle: Path) -> None:
    """The node's Python, which is /proc/self/exe until the program runs, is on a read-only mount."""
    write_bundle(bundle, ("sleep", "1000"))

    async def created() -> tuple[str, int]:
        runtime = LxcRuntime(bundle.parent)
        try:
            return program_of(await runtime.create("one", bundle, Stdio()))
        finally:
            await runtime.delete("one")

    assert (Path(sys.executable).resolve().name, os.ST_RDONLY) == asyncio.run(created())


def test_a_hangup_is_no_reboot(bundle: Path) -> None:
    """A first process without a pid namespace may end by SIGHUP, as by any signal."""
    spaces = [{"type": kind} for kind in ("mount", "network", "ipc", "uts")]
    write_bundle(bundle, ("sh", "-c", "kill -HUP $$"), namespaces=spaces)
    assert 129 == asyncio.run(run(bundle, Stdio())).code


def test_a_container_killed_for_memory(bundle: Path) -> None:
    """A first process that the out-of-memory killer ends has an exit that says so."""
    write_bundle(bundle, ("busybox", "tail", "/dev/zero"), resources={"memory": {"limit": 16 << 20, "swap": 16 << 20}})
    end = asyncio.run(run(bundle, Stdio()))
    assert (137, True) == (end.code, end.oom)


def test_a_terminal_of_an_exec(bundle: Path) -> None:
    """It is one of the container's own, it is the process's controlling terminal, and it has the client's size."""
    write_bundle(bundle, ("sleep", "1000"))
    out = Sink()

    async def sizes() -> AsyncIterator[TerminalSize]:
        yield TerminalSize(width=91, height=37)

    async def execute(runtime: LxcRuntime) -> None:
        script = "busybox tty; echo own >/dev/tty; until stty size 2>/dev/null | grep -q '37 91'; do sleep 0.1; done; stty size"
        process = {
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "terminal": True,
        }
        io = ProcessIO(stdout=out, sizes=sizes())
        await asyncio.wait_for(runtime.exec_process("one", process, io, lambda _: None), 30)

    assert 137 == asyncio.run(run(bundle, Stdio(), execute)).code
    assert ["/dev/pts/0", "own", "37 91"] == out.data.decode().split("\r\n")[:3]


def test_an_exec_that_is_cancelled_again(bundle: Path) -> None:
    """Its process is killed and reaped, also if it is cancelled again while it waits for the end."""
    write_bundle(bundle, ("sleep", "1000"))
    process = {"args": ["sleep", "1000"], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}}

    async def execute(runtime: LxcRuntime) -> None:
        before = children_of_this()
        running: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        executing = asyncio.ensure_future(runtime.exec_process("one", process, ProcessIO(), running.set_result))
        await asyncio.wait_for(running, 30)
        while not executing.done():
            executing.cancel()
            await asyncio.sleep(0)
        assert executing.cancelled()
        async with asyncio.timeout(30):
            while not children_of_this() <= before:
                await asyncio.sleep(0.02)

    assert 137 == asyncio.run(run(bundle, Stdio(), execute)).code


def children_of_this() -> set[int]:
    """The children of this process, with zombies."""
    return {process.pid for process in processes.all_processes().values() if process.parent == os.getpid()}


def wait_for(path: Path) -> None:
    for _ in range(300):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} does not appear")


@pytest.fixture
def ctr(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`ctr` of a containerd with the shim of this environment, and a root file system in the folder `root`."""
    if shutil.which("ctr") is None:
        pytest.skip("needs containerd: apt-get install containerd")
    busybox(tmp_path / "root")
    folder = Path(tempfile.mkdtemp(prefix="lxc"))  # a socket's path is short
    (folder / "config.toml").write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/run"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{folder}/c.sock"\n'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "CRISHIM_SHIM_STATE": f"{folder}/shim", "PATH": path}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "--address", f"{folder}/c.sock", "--namespace", "exam-lxc", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(["containerd", "--config", f"{folder}/config.toml"], stderr=log, env=environment)
    try:
        wait_for(folder / "c.sock")
        yield run
    finally:
        server.terminate()
        server.wait(30)
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"{folder}/shim".encode() in process.read_bytes():
                    os.kill(int(process.parent.name), signal.SIGKILL)
        for group in Path("/sys/fs/cgroup").glob("**/exam-lxc"):
            group.rmdir()
        shutil.rmtree(folder, ignore_errors=True)


def test_under_containerd(ctr: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """`ctr` runs tasks by the shim: with output, exit codes, execs and kills."""
    run = ("run", "--rootfs", "--runtime", "io.containerd.lxc.v1")
    root = str(tmp_path / "root")
    done = ctr(*run, "--rm", root, "one", "/bin/sh", "-c", "echo hello from $$; exit 7")
    assert (7, "hello from 1\n") == (done.returncode, done.stdout), done.stderr
    done = ctr(*run, "--detach", root, "two", "/bin/sleep", "1000")
    assert 0 == done.returncode, done.stderr
    try:
        command = ("/bin/sh", "-c", "pwd; id -u; exit 3")
        done = ctr("task", "exec", "--exec-id", "e", "--cwd", "/tmp", "--user", "12:34", "two", *command)
        assert (3, "/tmp\n12\n") == (done.returncode, done.stdout), done.stderr
        assert "/exam-lxc/two" in Path(f"/proc/{pid_of(ctr, 'two')}/cgroup").read_text()
    finally:
        ctr("task", "kill", "--signal", "SIGKILL", "two")
        done = ctr("task", "delete", "--force", "two")
        ctr("container", "delete", "two")
    assert "exit code 137" in done.stderr


def pid_of(ctr: Callable[..., subprocess.CompletedProcess[str]], task: str) -> int:
    return next(int(words[1]) for words in map(str.split, ctr("task", "ls").stdout.splitlines()) if words[0] == task)
