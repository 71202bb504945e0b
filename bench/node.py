"""A node of ours beside containerd and CRI-O (those on PATH): the same image, runtime binary and client, taking turns.

Prints one table: milliseconds (median, 95th percentile) of each call for pods of one container on the host network, pods a
second with eight clients, memory, lists, a restart, a cold pull; then the ratios to containerd's. Nothing is asserted.
Needs root, containerd, runc, crun, conmon, skopeo, docker-registry and busybox.

    python -m bench.node [--pods 30] [--many 100] [--only containerd,crio,runc,crun,docker,runc-keeper] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from bench.report import Row, markdown, save
from crishim.linux.mounts import unmount_below
from crishim.model.container import ContainerMetadata, LinuxContainerConfig
from crishim.model.image import ImageSpec
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig
from crishim.model.security import (
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
)
from crishim.play import CriClient, connect
from crishim.play.configs import MASKED_PATHS, READONLY_PATHS
from crishim.testing.harness import container_config, sandbox_config
from tests.node.registry import File, Layout, folder, serving, tar_of
from tests.shimv2.crio import Crio
from tests.suite.engine import engine

T = TypeVar("T")

CLIENTS: Final = 8
LISTS: Final = 2000
BURST: Final = 100
WARM: Final = 3
PAUSE: Final = 0.1
"""Seconds for what goes on after a pod's removal was answered."""

LAYERS: Final = 9
LAYER_SIZE: Final = 11 << 20
HOST: Final = LinuxSandboxSecurityContext(
    namespace_options=NamespaceOption(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
)
PLAIN: Final = LinuxContainerSecurityContext(
    namespace_options=HOST.namespace_options, masked_paths=MASKED_PATHS, readonly_paths=READONLY_PATHS
)
"""What a kubelet asks for every container."""
STEPS: Final = (
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
)


@attrs.define
class Peer:
    """A runtime's server with all that is its own in `place`. `command` starts it, `image` is what its containers run."""

    name: str
    place: Path
    command: tuple[str, ...]
    image: str
    big: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def cgroup(self) -> str:
        """The cgroup that its pods are put into."""
        return f"/bench-{self.name}"

    def start(self) -> None:
        """Start the server."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def stop(self) -> None:
        """Stop the server; containers go on."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def cpu(self) -> float:
        """Seconds of CPU time that the server's threads have used."""
        assert self.process is not None
        files = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text(encoding="ascii").split()[0]) for file in files) / 1e9

    def memory(self) -> float:
        """The server's resident memory in MiB."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]) * 4096 / (1 << 20)

    def helpers(self) -> float:
        """KiB of proportional memory of what is neither the server nor a container: monitors, shims, pauses."""
        assert self.process is not None
        pids = {
            pid for group in Path("/sys/fs/cgroup").glob(f"*{self.cgroup}/**/cgroup.procs") for pid in group.read_text().split()
        }
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if os.fsencode(self.place) in entry.read_bytes():
                    pids.add(entry.parent.name)
        total = 0
        for pid in pids - {str(self.process.pid)}:
            with contextlib.suppress(OSError):
                if b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
                    total += int(text.split("\nPss:")[1].split()[0])
        return float(total)


@contextlib.asynccontextmanager
async def client_of(peer: Peer) -> AsyncIterator[CriClient]:
    """A client, once the server answers."""
    while not accepts(peer.place / "cri.sock"):  # gRPC itself would wait for a second after the first refusal
        await asyncio.sleep(0.005)
    async with connect(f"unix://{peer.place}/cri.sock") as client:
        while True:
            with contextlib.suppress(Exception):
                await client.version()
                break
            await asyncio.sleep(0.005)
        yield client


def accepts(path: Path) -> bool:
    """Whether somebody takes connections at a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class Rounds:
    """The pods of one peer, and the times of their calls in milliseconds."""

    def __init__(self, peer: Peer, client: CriClient) -> None:
        self.peer = peer
        self.client = client
        self.times: dict[str, list[float]] = {step: [] for step in STEPS}
        self.whole: list[float] = []

    async def timed(self, step: str, call: Awaitable[T]) -> T:
        """One call."""
        begun = time.perf_counter()
        answer = await call
        self.times[step].append((time.perf_counter() - begun) * 1000)
        return answer

    def config(self, name: str) -> PodSandboxConfig:
        """A pod on the host network."""
        linux = LinuxPodSandboxConfig(cgroup_parent=f"{self.peer.cgroup}/{name}", security_context=HOST)
        return sandbox_config(name, hostname="", linux=linux, log_directory=str(self.peer.place / "logs" / name))

    async def start(self, name: str) -> tuple[str, str]:
        """One pod with its container."""
        config = self.config(name)
        wanted = container_config(
            "",
            metadata=ContainerMetadata("c"),
            image=ImageSpec(image=self.peer.image, user_specified_image=self.peer.image),
            command=(),
            log_path="c.log",
            linux=LinuxContainerConfig(security_context=PLAIN),
        )
        begun = time.perf_counter()
        sandbox = await self.timed("RunPodSandbox", self.client.run_sandbox(config))
        container = await self.timed("CreateContainer", self.client.create_container(sandbox, wanted, config))
        await self.timed("StartContainer", self.client.start_container(container))
        self.whole.append((time.perf_counter() - begun) * 1000)
        return sandbox, container

    async def end(self, sandbox: str, container: str) -> None:
        """Its end."""
        await self.timed("StopContainer", self.client.stop_container(container, 0))
        await self.timed("RemoveContainer", self.client.remove_container(container))
        await self.timed("StopPodSandbox", self.client.stop_sandbox(sandbox))
        await self.timed("RemovePodSandbox", self.client.remove_sandbox(sandbox))

    async def whole_life(self, name: str) -> None:
        """One pod from its beginning to its end."""
        sandbox, container = await self.start(name)
        await self.timed("ExecSync", self.client.exec_sync(container, ("true",), 10))
        await self.end(sandbox, container)


async def measured(peers: list[Peer], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All measurements of all peers; lower is better except for rates. Measurements per pod alternate between the peers."""
    found: dict[str, dict[str, float]] = {peer.name: {} for peer in peers}
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for peer in peers:
            peer.start()
            nodes.append(Rounds(peer, await stack.enter_async_context(client_of(peer))))
        for _ in range(3):  # a first pull warms up what is pulled from
            for node in nodes:
                row, big = found[node.peer.name], ImageSpec(image=node.peer.big)
                begun = time.perf_counter()
                await node.client.pull_image(big, sandbox_config())
                row["cold pull, s"] = min(row.get("cold pull, s", 1e9), time.perf_counter() - begun)
                await node.client.remove_image(big)
                await asyncio.sleep(1)  # containerd collects its garbage beside
        for node in nodes:
            await node.client.pull_image(ImageSpec(image=node.peer.image), sandbox_config())
        os.sync()  # so that no measurement waits for the writes of the pulls
        for number in range(-WARM, options.pods):
            nodes.append(nodes.pop(0))  # so that the order of peers changes
            for node in nodes:
                await node.whole_life(f"pod{number}")
                await asyncio.sleep(PAUSE)
        for node in nodes:
            row = found[node.peer.name]
            row["whole pod start"] = statistics.median(node.whole[WARM:])
            row["StopPodSandbox and RemovePodSandbox"] = statistics.median(
                map(sum, zip(*(node.times[step][WARM:] for step in STEPS[-2:]), strict=True))
            )
            for step in STEPS:
                row[step] = statistics.median(node.times[step][WARM:])
                row[f"{step} p95"] = statistics.quantiles(node.times[step][WARM:], n=20)[-1]
            row["pods a second, 8 clients"] = await together(node, options.pods)
        await with_many(nodes, options.many, found)
    return found


async def together(rounds: Rounds, pods: int) -> float:
    """Pods started a second by eight clients at once."""
    waiting = iter(range(pods))
    started: list[tuple[str, str]] = []

    async def work() -> None:
        started.extend([await rounds.start(f"together{number}") for number in waiting])

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    took = time.perf_counter() - begun
    await asyncio.gather(*(rounds.end(*pod) for pod in started))
    return pods / took


async def with_many(nodes: list[Rounds], pods: int, found: dict[str, dict[str, float]]) -> None:
    """What a node full of pods costs."""
    pods_of = {node.peer.name: [await node.start(f"many{number}") for number in range(pods)] for node in nodes}
    spent = dict.fromkeys(pods_of, 0.0)
    for _ in range(LISTS // BURST):
        for node in nodes:
            before = node.peer.cpu()
            for _ in range(BURST):
                await node.client.list_containers({})
            spent[node.peer.name] += node.peer.cpu() - before
    for node in nodes:
        peer, row = node.peer, found[node.peer.name]
        row |= {"memory of helpers for each pod, KiB": peer.helpers() / pods, "memory of the server, MiB": peer.memory()}
        row["ListContainers, us of CPU"] = spent[peer.name] / LISTS * 1e6
        peer.stop()
        begun = time.perf_counter()
        peer.start()
        async with client_of(peer) as again:
            while len(await again.list_containers({})) < pods:
                await asyncio.sleep(0.01)
            row["restart with its pods, s"] = time.perf_counter() - begun
            for sandbox, container in pods_of[peer.name]:
                await again.stop_container(container, 0)
                await again.stop_sandbox(sandbox)
                await again.remove_sandbox(sandbox)


# --- the two servers ---


def push_images(place: Path, registry: Any) -> tuple[str, str]:
    """A busybox, and an image of nine layers that look like programs: half of each is noise."""
    busybox = Path(str(shutil.which("busybox"))).read_bytes()
    links = [File(f"bin/{name}", kind=b"1", to="bin/busybox", mode=0o755) for name in ("sh", "sleep", "true")]
    small = tar_of(folder("bin"), File("bin/busybox", busybox, mode=0o755), *links)
    layout = Layout(place / "layout")
    layout.image([small], {"Cmd": ["sleep", "600"], "Env": ["PATH=/bin"]}, tag="small")
    noise = random.Random(0)
    layers = []
    for number in range(LAYERS):
        files = [
            File(f"l{number}/{name}", noise.randbytes(size // 2) + bytes(size // 2))
            for name, size in ((f"f{part}", LAYER_SIZE // 40) for part in range(80))
        ]
        layers.append(tar_of(folder(f"l{number}"), *files))
    layout.image(layers, {"Cmd": ["true"]}, tag="big")
    return registry.push(layout, "small", "bench/small:1"), registry.push(layout, "big", "bench/big:1")


def crishim(place: Path, small: str, big: str) -> Peer:
    """Our server over the runtime that its folder is named after, with the monitor behind it: `runc`, `crun-keeper`."""
    runtime, _, monitor = place.name.partition("-")
    host = small.partition("/")[0]
    (place / "registries.conf").write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
    (place / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (place / "crishim.toml").write_text(f"""
listen = "{place}/cri.sock"
state = "{place}/state"
runtime_state = "{place}/run"
cgroup_driver = "cgroupfs"
[handlers]
"" = "runc"
[backends.runc]
runtime = "{runtime}"
monitor = "{monitor or "conmon"}"
[images]
registries_conf = "{place}/registries.conf"
policy = "{place}/policy.json"
[network]
config = "{place}/net.d"
""")
    serve = (sys.executable, "-m", "crishim", "serve", "--config", f"{place}/crishim.toml")
    return Peer(f"crishim-{place.name}", place, serve, small, big)


def docker(place: Path, small: str, big: str) -> Peer:
    """Our server over an engine whose socket is in the same folder."""
    (place / "crishim.toml").write_text(f"""
listen = "{place}/cri.sock"
state = "{place}/state"
runtime_state = "{place}/run"
cgroup_driver = "cgroupfs"
[handlers]
"" = "docker"
[backends.docker]
socket = "{place}/docker.sock"
[network]
config = "{place}/net.d"
""")
    serve = (sys.executable, "-m", "crishim", "serve", "--config", f"{place}/crishim.toml")
    return Peer("crishim-docker", place, serve, small, big)


def containerd(place: Path, small: str, big: str) -> Peer:
    """Whichever is first on PATH, with its shim."""
    host = small.partition("/")[0]
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    (place / "containerd.toml").write_text(f"""version = 2
root = "{place}/root"
state = "{place}/state"
[grpc]
address = "{place}/cri.sock"
[{cri}]
sandbox_image = "{small}"
restrict_oom_score_adj = true
stream_server_port = "0"
[{cri}.cni]
conf_dir = "{place}/cni"
[{cri}.registry]
config_path = "{place}/hosts"
""")
    mirror = place / "hosts" / host / "hosts.toml"
    mirror.parent.mkdir(parents=True)
    mirror.write_text(f'server = "http://{host}"\n')
    return Peer("containerd", place, ("containerd", "--config", f"{place}/containerd.toml", "--log-level", "warn"), small, big)


def crio(place: Path, small: str, big: str) -> Peer:
    """CRI-O with the runc on PATH, and no pause, as by default."""
    made = Crio(place, small, small.partition("/")[0], default="runc", runc=str(shutil.which("runc")))
    return Peer("crio", place, made.command, small, big)


@contextlib.contextmanager
def cleared(peer: Peer) -> Iterator[None]:
    """Whatever comes, nothing of the peer is left."""
    try:
        yield
    finally:
        if peer.process is not None:
            peer.stop()
        for group in Path("/sys/fs/cgroup").glob(f"*{peer.cgroup}/**/cgroup.procs"):
            for pid in group.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
        time.sleep(0.5)
        unmount_below(peer.place)
        for group in Path("/sys/fs/cgroup").glob(f"*{peer.cgroup}"):
            for child in (*sorted(group.glob("**/"), reverse=True), group):
                with contextlib.suppress(OSError):
                    child.rmdir()


def versions() -> None:
    """Print the versions of the programs that are measured."""
    for program in filter(shutil.which, ("containerd", "crio", "runc", "crun", "conmon")):
        output = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
        print(output.stdout.partition("\n")[0])


def rows_of(results: dict[str, dict[str, float]]) -> list[Row]:
    """The measurements as rows; without a unit in its name a row is in milliseconds."""
    rows = []
    for name in next(iter(results.values())):
        label, _, unit = name.rpartition(", ")
        more = name.startswith("pods a second")
        label, unit = (label, unit) if label and not more else (name, "" if more else "ms")
        rows.append(Row(label, unit or "1/s", {peer: row[name] for peer, row in results.items()}, more))
    return rows


@contextlib.contextmanager
def peers_for(names: list[str]) -> Iterator[tuple[tuple[str, Any], list[Peer]]]:
    """The peers with these names, each in a folder of its own, and the registry with its folder, from which they pull."""
    with tempfile.TemporaryDirectory(prefix="bench") as temporary, serving(Path(temporary) / "registry") as registry:
        place = Path(temporary)
        place.chmod(0o711)
        small, big = push_images(place, registry)
        with contextlib.ExitStack() as stack:
            peers = []
            for name in names:
                own = place / name
                own.mkdir()
                if name == "docker":
                    stack.enter_context(engine(own, registry.port, ()))
                peers.append({"containerd": containerd, "crio": crio, "docker": docker}.get(name, crishim)(own, small, big))
                stack.enter_context(cleared(peers[-1]))
            yield (temporary, registry), peers


def main(options: argparse.Namespace) -> None:
    """Measure the selected peers."""
    with peers_for(options.only.split(",")) as (_, peers):
        results = asyncio.run(measured(peers, options))
    versions()
    rows = rows_of(results)
    print(markdown(rows))
    save(options.json, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pods", type=int, default=30)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--only", default="containerd,runc,crun")
    parser.add_argument("--json", default="")
    main(parser.parse_args())
