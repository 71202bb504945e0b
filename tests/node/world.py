"""A node of its own: `crishim serve` with runc, CNI and images in one folder, and what it leaves on the machine."""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.mounts import mounts_below, unmount_below
from crishim.linux.processes import recorded
from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.model.runtime import CgroupDriver
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext
from crishim.play import CallError, CriClient, connect
from crishim.pods.host import cgroup_driver, cgroup_v2
from crishim.testing.harness import container_config, sandbox_config
from tests.node.registry import File, Layout, folder, serving, tar_of

TOOLS: Final = ("runc", "conmon", "skopeo", "docker-registry", "busybox", "unshare", "nsenter", "iptables", "ip")
CGROUPS: Final = Path("/sys/fs/cgroup")
PLUGINS: Final = Path("/usr/lib/cni")
_PR_SET_CHILD_SUBREAPER: Final = 36


def real_plugins() -> pytest.MarkDecorator:
    """A test that needs the reference CNI plugins."""
    return pytest.mark.skipif(not PLUGINS.exists(), reason="needs CNI plugins: apt-get install containernetworking-plugins")


@contextlib.contextmanager
def images(place: Path, *command: str) -> Iterator[str]:
    """A registry with a busybox that runs `command`; the reference to pull it by."""
    busybox = Path(str(shutil.which("busybox"))).read_bytes()
    links = [File(f"bin/{name}", kind=b"1", to="bin/busybox", mode=0o755) for name in ("sh", "sleep", "cat", "true", "dd")]
    layer = tar_of(folder("bin"), File("bin/busybox", busybox, mode=0o755), *links)
    layout = Layout(place / "layout")
    layout.image([layer], {"Cmd": command or ["sleep", "600"], "Env": ["PATH=/bin"]}, tag="one")
    with serving(place / "registry") as registry:
        yield registry.push(layout, "one", "test/busybox:1")


class Node:
    """One node, with the machine's own cgroup driver. `image` is the reference of what its containers run; `number` sets it
    apart from other nodes.
    """

    def __init__(
        self,
        place: Path,
        image: str,
        number: int = 77,
        *,
        plugin: str = "",
        state: Path | None = None,
        runtime: str = "runc",
        monitor: str = "conmon",
    ) -> None:
        self.place = place
        self.image = image
        self.bridge = f"crinode{number}"
        self.systemd = cgroup_driver() is CgroupDriver.SYSTEMD
        self.cgroup = f"/crinode{number}.slice" if self.systemd else f"/crinode{number}"
        self.addresses = place / "addresses"
        self.state = state or place / "state"
        self.run = place / "run"
        self.nri = place / "nri.sock"
        self._server: subprocess.Popen[bytes] | None = None
        network = place / "net.d"
        network.mkdir(exist_ok=True)
        bridge: dict[str, Any] = {
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": f"10.{number}.0.0/24"}]], "dataDir": str(self.addresses)},
        }
        plugins = [bridge, *([{"type": plugin}] if plugin else [])]
        conflist = {"cniVersion": "1.0.0", "name": "node", "plugins": plugins}
        (network / "10-node.conflist").write_text(json.dumps(conflist))
        (place / "bin").mkdir(exist_ok=True)
        host = image.partition("/")[0]
        (place / "registries.conf").write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        (place / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.monitor = monitor
        self.source: Path | None = None
        """The folder of another version of this package, which the next server is of."""
        self.configure(runtime)

    def configure(self, runtime: str = "runc") -> None:
        """Write the configuration."""
        monitor = "" if self.monitor == "conmon" else f'monitor = "{self.monitor}"'
        (self.place / "crishim.toml").write_text(f"""
listen = "{self.place}/cri.sock"
state = "{self.state}"
runtime_state = "{self.run}"
[handlers]
"" = "runc"
[backends.runc]
runtime = "{runtime}"
{monitor}
[images]
registries_conf = "{self.place}/registries.conf"
policy = "{self.place}/policy.json"
[network]
config = "{self.place}/net.d"
plugins = ["{self.place}/bin", "{PLUGINS}"]
[nri]
socket = "{self.nri}"
plugins = "{self.place}/nri"
""")

    def start(self, *before: str) -> None:
        """Start the server; `before` is a command that runs it."""
        config = str(self.place / "crishim.toml")
        with (self.place / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*before, sys.executable, "-m", "crishim", "serve", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if self.source is None else {**os.environ, "PYTHONPATH": str(self.source)},
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the server, and wait for its end."""
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait()
            self._server = None

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[CriClient]:
        """A client of the server, once it answers."""
        async with connect(f"unix://{self.place}/cri.sock") as client:
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(Exception):  # whatever it is, it is not there yet
                        await client.version()
                        break
                    await asyncio.sleep(0.02)
            yield client

    def sandbox(self, name: str, security: LinuxSandboxSecurityContext | None = None) -> PodSandboxConfig:
        """The configuration of a pod of this node."""
        linux = LinuxPodSandboxConfig(cgroup_parent=self.cgroup, security_context=security or LinuxSandboxSecurityContext())
        return sandbox_config(name, log_directory=str(self.place / "logs" / name), linux=linux)

    async def make_pod(self, client: CriClient, name: str, containers: int = 2) -> list[str]:
        """A pod of running containers; their ids, behind the pod's."""
        sandbox = self.sandbox(name)
        ids = [await client.run_sandbox(sandbox)]
        for number in range(containers):
            metadata = ContainerMetadata(f"c{number}")
            config = container_config(
                "", metadata=metadata, image=ImageSpec(image=self.image), command=(), log_path=f"{number}.log"
            )
            ids.append(await client.create_container(ids[0], config, sandbox))
            await client.start_container(ids[-1])
        return ids

    async def pull(self, client: CriClient) -> None:
        """Have the image here."""
        await client.pull_image(ImageSpec(image=self.image), sandbox_config())

    async def takes_a_container(self, client: CriClient, pod: str, name: str, container: str) -> bool:
        """Whether a container can be created and started in a pod, and runs in the pod's own network; it is removed again."""
        config = container_config("", metadata=ContainerMetadata(container), image=ImageSpec(image=self.image), command=())
        try:
            container_id = await client.create_container(pod, config, self.sandbox(name))
            await client.start_container(container_id)
            first = recorded(self.run / "backends" / "runc" / "containers" / container_id / FIRST_PROCESS)
            pin = self.run / "namespaces" / pod / "net"
            inside = first is not None and pin.samefile(f"/proc/{first.pid}/ns/net")
            await client.remove_container(container_id)
        except CallError:
            return False
        return inside

    async def empty(self, client: CriClient, kept_names: Collection[str] = ()) -> None:
        """Remove every pod but those named in `kept_names`, as a kubelet would: with retries."""
        async with asyncio.timeout(60):
            while sandboxes := [pod for pod in await client.list_sandboxes({}) if pod.metadata.name not in kept_names]:
                for sandbox in sandboxes:
                    with contextlib.suppress(CallError):
                        await client.stop_sandbox(sandbox.id)
                        await client.remove_sandbox(sandbox.id)

    def resources(self) -> set[str]:
        """The ids of all that the runtime holds."""
        runtime = self.run / "backends" / "runc" / "runtime"
        return {path.name for path in runtime.iterdir()} if runtime.exists() else set()

    def traces(self) -> set[str]:
        """What is on this machine because of this node's pods: mounts, cgroups, addresses, interfaces, processes, folders."""
        pins = self.run / "namespaces"
        mounts = {mount.path for folder in (self.place, self.run) for mount in mounts_below(folder)}
        found = {f"mount {path}" for path in mounts - {str(pins)}}
        found |= {f"cgroup {path}" for path in self._cgroups()}
        found |= {
            f"address {path.name}" for path in self.addresses.glob("node/*") if path.name[0].isdigit() and "." in path.name
        }
        bridge = Path("/sys/class/net") / self.bridge / "brif"
        found |= {f"interface {path.name}" for path in bridge.glob("*")}
        found |= {f"process {pid}: {line[:200]}" for pid, line in processes(str(self.place)) if not own(line)}
        for kind in ("containers", "sandboxes"):
            found |= {f"folder {path}" for path in (self.run / "backends" / "runc" / kind).glob("*")}
        found |= {f"folder {path}" for path in (self.state / "images" / "containers").glob("*")}
        return found

    def groups(self) -> list[Path]:
        """The cgroup of this node's pods, of every hierarchy there is."""
        pattern = self.cgroup.lstrip("/") if cgroup_v2() else f"*{self.cgroup}"
        return list(CGROUPS.glob(pattern))

    def _cgroups(self) -> list[Path]:
        """The cgroups of pods and containers that are left; systemd removes its own soon after their last process has ended."""
        for _ in range(100 if self.systemd else 0):
            if not any(True for group in self.groups() for _ in group.glob("*/")):
                break
            time.sleep(0.02)
        return [path for group in self.groups() for path in group.glob("*/")]

    def crash(self) -> None:
        """What a reboot does: every process of the node's, every mount and every cgroup is gone; so is the runtime's folder."""
        self.kill()
        for path in [path for group in self.groups() for path in group.rglob("cgroup.procs")]:
            with contextlib.suppress(OSError):
                for pid in path.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        for number, _ in processes(str(self.place)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        unmount_below(self.place)
        unmount_below(self.run)
        shutil.rmtree(self.run, ignore_errors=True)

    def close(self) -> None:
        """Leave nothing."""
        self.crash()
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)
        if self.systemd:
            subprocess.run(["systemctl", "stop", self.cgroup.lstrip("/")], check=False, capture_output=True)
        for group in self.groups():
            for child in (*group.glob("*/"), group):
                with contextlib.suppress(OSError):
                    child.rmdir()


def own(line: str) -> bool:
    """Whether a command line is the server's, or that of the node's keeper, which goes on for some seconds when it is idle."""
    return "serve" in line or "crishim.keeper" in line


def processes(mark: str) -> list[tuple[int, str]]:
    """The processes whose command line holds `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if mark in line:
                    found.append((int(entry.name), line))
    return found


@contextlib.contextmanager
def one_node(image: str, **options: Any) -> Iterator[Node]:
    """A node in a folder with a short name, gone afterwards.

    What a killed server leaves must not become ours, as it would if an earlier test has made this process a child subreaper: we
    do not collect it, and who is dead and not collected keeps its PID namespace from ending.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    place = Path(tempfile.mkdtemp(prefix="node"))
    place.chmod(0o711)
    node = Node(place, image, **options)
    try:
        yield node
    finally:
        node.close()
        shutil.rmtree(place, ignore_errors=True)
