"""A containerd of its own, whose tasks go through our shim: its folders, its CRI, `ctr`, and the daemon behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from crishim.linux.mounts import mounts_below, unmount_below
from crishim.play import CriClient, connect
from tests.backends.runc.world import APPLETS
from tests.node.world import processes

RUNTIME = "io.containerd.crishim.v2"
PROGRAMS = ("containerd", "ctr", "runc", "conmon", "busybox")


class Containerd:
    """One containerd in `folder`. `image` is a busybox for CRI pods, by a registry that it may pull from without TLS."""

    def __init__(self, folder: Path, image: str = "127.0.0.1:1/none") -> None:
        self.folder = folder
        self.state = folder / "shim"
        self.image = image
        self._process: subprocess.Popen[bytes] | None = None
        host = image.partition("/")[0]
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        (folder / "config.toml").write_text(f"""version = 2
root = "{folder}/lib"
state = "{folder}/run"
[grpc]
address = "{folder}/c.sock"
[{cri}]
sandbox_image = "{image}"
restrict_oom_score_adj = true
stream_server_port = "0"
[{cri}.containerd]
default_runtime_name = "crishim"
[{cri}.containerd.runtimes.crishim]
runtime_type = "{RUNTIME}"
[{cri}.containerd.runtimes.own]
runtime_type = "{RUNTIME}"
[{cri}.containerd.runtimes.own.options]
ConfigPath = "{folder}/options.toml"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.cni]
conf_dir = "{folder}/cni"
[{cri}.registry.mirrors."{host}"]
endpoint = ["http://{host}"]
""")
        (folder / "options.toml").write_text(f'Root = "{folder}/shim/runc/own"\n')
        self.root = folder / "root"
        (self.root / "bin").mkdir(parents=True)
        shutil.copy2(str(shutil.which("busybox")), self.root / "bin" / "busybox")
        for applet in APPLETS:
            (self.root / "bin" / applet).hardlink_to(self.root / "bin" / "busybox")

    def start(self) -> None:
        """Start it; it finds our shim on PATH."""
        environment = {
            **os.environ,
            "PATH": f"{sysconfig.get_path('scripts')}:{self.folder}/bin:{os.environ['PATH']}",
            "CRISHIM_SHIM_STATE": str(self.state),
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", str(self.folder / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        for _ in range(300):
            if self.ctr("version").returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Stop it; tasks keep running."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def ctr(self, *args: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run `ctr`, at most for half a minute."""
        command = ["timeout", "--signal=KILL", "30", "ctr", "--address", str(self.folder / "c.sock"), *args]
        return subprocess.run(command, input=stdin, capture_output=True, check=False)

    def run(
        self, task: str, *argv: str, options: tuple[str, ...] = (), runtime: str = RUNTIME
    ) -> "subprocess.CompletedProcess[bytes]":
        """`ctr run` of a command over the busybox."""
        return self.ctr("run", "--rootfs", "--runtime", runtime, "--env", "PATH=/bin", *options, str(self.root), task, *argv)

    def tasks(self) -> dict[str, tuple[int, str]]:
        """Pid and status of each task that containerd lists."""
        lines = self.ctr("task", "ls").stdout.decode().splitlines()[1:]
        return {name: (int(pid), status) for name, pid, status in (line.split() for line in lines)}

    def daemon(self) -> int:
        """The pid of the daemon behind the shim; 0 where there is none."""
        return next((pid for pid, line in processes(str(self.state)) if "crishim.backends.runc.shim" in line), 0)

    def leftovers(self) -> set[str]:
        """What tasks have left: monitors, mounts, bundles."""
        found = {f"mount {mount.path}" for mount in mounts_below(self.folder)}
        found |= {f"monitor {pid}" for pid, line in processes(str(self.folder)) if line.startswith("conmon")}
        return found | {f"bundle {path}" for path in (self.folder / "run/io.containerd.runtime.v2.task").glob("*/*")}

    def complaints(self) -> str:
        """What is left, and what containerd and our daemon have logged as wrong."""
        lines = (self.folder / "log").read_text().splitlines() + (self.state / "log").read_text().splitlines()
        wrong = (
            line
            for line in lines
            if "level=error" in line or "level=warning" in line or " WARNING " in line or "Error:" in line
        )
        return "\n".join((*sorted(self.leftovers()), *wrong))

    @contextlib.asynccontextmanager
    async def cri(self) -> AsyncIterator[CriClient]:
        """A client of its CRI."""
        async with connect(f"unix://{self.folder}/c.sock") as client:
            yield client

    def close(self) -> None:
        """Leave nothing."""
        self.stop()
        for pid, _ in processes(str(self.folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for state in (self.state / "runc").glob("*/*/state.json"):
            subprocess.run(
                ["runc", "--root", state.parents[1], "delete", "--force", state.parent.name], check=False, capture_output=True
            )
        unmount_below(self.folder)


@contextlib.contextmanager
def containerd(image: str = "127.0.0.1:1/none") -> Iterator[Containerd]:
    """A containerd that runs, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ctd"))
    server = Containerd(folder, image)
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)
