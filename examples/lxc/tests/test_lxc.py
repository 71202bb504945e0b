"""The exam for pods, and the same class behind containerd; needs root and LXC."""

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lxc_backend import LxcRuntime, plugin

from crishim import Backend, BackendContext
from crishim.testing.conformance import BackendConformance
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
        busybox(bundle / "rootfs")
        process = {"args": list(argv), "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "cwd": "/"}
        spaces = [{"type": kind} for kind in ("mount", "pid", "network", "ipc", "uts")]
        mounts: list[dict[str, Any]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
        linux = {"namespaces": spaces, "cgroupsPath": f"/crishim-exam/{bundle.name}"}
        config = {"process": process, "root": {"path": "rootfs"}, "mounts": mounts, "linux": linux}
        (bundle / "config.json").write_text(json.dumps(config))


def wait_for(path: Path) -> None:
    for _ in range(300):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} does not appear")


@pytest.fixture
def ctr(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`ctr` of a containerd with the shim, and a root file system in the folder `root`."""
    if shutil.which("ctr") is None:
        pytest.skip("needs containerd: apt-get install containerd")
    busybox(tmp_path / "root")
    folder = Path(tempfile.mkdtemp(prefix="lxc"))  # a socket's path is short
    shim = folder / "containerd-shim-lxc-v1"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m lxc_backend "$@"\n')
    shim.chmod(0o755)
    (folder / "config.toml").write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/run"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{folder}/c.sock"\n'
    )
    environment = {**os.environ, "CRISHIM_SHIM_STATE": f"{folder}/shim", "PATH": f"{folder}:{os.environ['PATH']}"}

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
