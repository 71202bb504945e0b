"""A containerd of its own, whose tasks go through our shim: its folders, its CRI, `ctr`, and the daemon behind."""

import contextlib
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from crishim.linux.mounts import mounts_below
from crishim.play import CriClient
from crishim.shimv2.server.launcher import NODE, SCOPE
from crishim.testing.roots import APPLETS
from crishim.testing.suite.node import write_network
from tests.node.world import processes
from tests.shimv2.servers import answering, leave_nothing
from tests.suite.settings import DISTRIBUTION, Handler, Release, Settings

RUNTIME = "io.containerd.crishim.v2"
PROGRAMS = ("containerd", "ctr", "runc", "conmon", "busybox")


class Containerd:
    """One containerd in `folder`. `image` is a busybox for CRI pods, by a registry that it may pull from without TLS."""

    def __init__(
        self, folder: Path, image: str = "127.0.0.1:1/none", release: Release = DISTRIBUTION, scope: str = NODE
    ) -> None:
        self.folder = folder
        self.scope = scope
        self.release = release
        self.state = folder / "shim"
        self.image = image
        self.networks = folder / "net.d"
        self._process: subprocess.Popen[bytes] | None = None
        host = image.partition("/")[0]
        own = Handler(name="own", runtime=RUNTIME, options={"ConfigPath": f"{folder}/options.toml"})
        pod = Handler(name="pod", runtime=RUNTIME, sandboxer="shim")
        Settings(
            folder=folder,
            release=release,
            handlers=[
                Handler(name="crishim", runtime=RUNTIME),
                own,
                Handler(name="runc", runtime="io.containerd.runc.v2"),
                *([pod] if release.modern else []),
            ],
            sandbox_image=image,
            hosts=[host],
            mirror=host,
            networks=self.networks,
        ).write()
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
            "PATH": self.path,
            "CRISHIM_SHIM_STATE": str(self.state),
            SCOPE: self.scope,
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(shutil.which("containerd", path=self.path)), "--config", str(self.folder / "config.toml")],
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

    @property
    def path(self) -> str:
        """PATH of its programs and of our shim."""
        return self.release.path(f"{sysconfig.get_path('scripts')}:{self.folder}/bin:{os.environ['PATH']}")

    def stop(self) -> None:
        """Stop it; tasks keep running."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def ctr(self, *args: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run `ctr`, at most for half a minute."""
        command = ["timeout", "--signal=KILL", "30", "ctr", "--address", str(self.folder / "c.sock"), *args]
        environment = {**os.environ, "PATH": self.path}
        return subprocess.run(command, input=stdin, capture_output=True, check=False, env=environment)

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
        return next(iter(self.daemons()), 0)

    def daemons(self) -> list[int]:
        """The pids of all daemons; with the scope `sandbox` there may be several."""
        return [pid for pid, line in processes(str(self.state)) if "crishim.backends.runc.shim" in line]

    def states(self) -> list[dict[str, Any]]:
        """What runc has recorded of each container of our shim."""
        return [json.loads(file.read_text()) for file in (self.state / "runc").glob("**/state.json")]

    @contextlib.contextmanager
    def events(self, file: Path) -> Iterator[None]:
        """Inside, containerd's events are written to a file."""
        with file.open("wb") as output:
            command = [str(shutil.which("ctr", path=self.path)), "--address", str(self.folder / "c.sock"), "events"]
            listening = subprocess.Popen(command, stdout=output)
        try:
            yield
        finally:
            listening.terminate()
            listening.wait(30)

    def leftovers(self) -> set[str]:
        """What tasks have left: monitors, mounts, bundles."""
        found = {f"mount {mount.path}" for mount in mounts_below(self.folder)}
        found |= {f"monitor {pid}" for pid, line in processes(str(self.folder)) if line.startswith("conmon")}
        return found | {
            f"bundle {path}"
            for path in (self.folder / "run").glob("io.containerd.*.v*/*/*")
            if ".runtime.v2.task/" in str(path) or ".shim/" in str(path)
        }

    def complaints(self) -> str:
        """What is left, and what containerd and our daemon have logged as wrong."""
        lines = (self.folder / "log").read_text().splitlines() + (self.state / "log").read_text().splitlines()
        wrong = (
            line
            for line in lines
            if "level=error" in line or "level=warning" in line or " WARNING " in line or "Error:" in line
        )
        return "\n".join((*sorted(self.leftovers()), *wrong))

    def cri(self) -> AbstractAsyncContextManager[CriClient]:
        """A client of its CRI, once that answers."""
        return answering(self.folder / "c.sock")

    def close(self) -> None:
        """Leave nothing."""
        self.stop()
        leave_nothing(self.folder, self.state)


@contextlib.contextmanager
def containerd(
    image: str = "127.0.0.1:1/none", release: Release = DISTRIBUTION, bridge: str = "", scope: str = NODE
) -> Iterator[Containerd]:
    """A containerd that runs, gone afterwards. With the name of a bridge its pods have addresses in 10.86.0.0/16."""
    folder = Path(tempfile.mkdtemp(prefix="ctd"))
    folder.chmod(0o711)  # the root of a user namespace reaches its files in here
    server = Containerd(folder, image, release, scope)
    if bridge:
        write_network(folder, bridge, "10.86.0.0/16")
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)
        if bridge:
            subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)
