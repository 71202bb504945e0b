"""A node for the suite: a loopback registry with its images, a network, and `crishim serve` with the backend, in one folder."""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import attrs

from crishim.config import NetworkConfig
from crishim.errors import ResourceExhausted, Unknown
from crishim.linux.mounts import unmount_below
from crishim.linux.programs import find_program
from crishim.play.client import CallError, connect
from crishim.testing.suite.images import push_all
from crishim.testing.suite.programs import merged_output, process, wait_for

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "crishim-suite"
"""The folder of the busybox that is built once, and of the last outputs."""

MIRRORED: Final = ("registry.k8s.io", "gcr.io", "k8s.gcr.io")
"""The registries that the suite names, in whose place the loopback registry is asked."""

TOOLS: Final = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "nginx": "nginx-core",
    "catatonit": "catatonit",
    "cc": "gcc libc6-dev",
    "dpkg-source": "dpkg-dev",
    "make": "make",
    "ip": "iproute2",
    "iptables": "iptables",
}
PLUGINS: Final = ("bridge", "portmap", "firewall", "host-local")
SLICE: Final = "test.slice"
"""The slice of the pods of every run with systemd; critest has this name."""

RUNS: Final = 64
"""How many runs there may be at once."""

CLAIMS: Final = "\0crishim-suite-"
"""What the sockets of runs are named by, in Linux's abstract namespace."""

NETWORK: Final = """{
  "cniVersion": "1.0.0", "name": "crishim-suite",
  "plugins": [
    {"type": "bridge", "bridge": "%s", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "%s"}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
    {"type": "firewall"}
  ]
}"""


def critest_program() -> str:
    """The suite's program: what $CRITEST names, or critest."""
    return os.environ.get("CRITEST", "critest")


def missing() -> list[str]:
    """What the suite needs and this machine lacks, each with the way to get it."""
    lacking = [f"{tool}: apt-get install {package}" for tool, package in TOOLS.items() if not find_program(tool)]
    if not find_program(critest_program()):
        lacking.append("critest: on PATH or named by $CRITEST; releases of kubernetes-sigs/cri-tools have it")
    if not all(find_program(plugin, NetworkConfig().plugins) for plugin in PLUGINS):
        lacking.append(f"the CNI plug-ins {', '.join(PLUGINS)}: apt-get install containernetworking-plugins")
    if os.geteuid() != 0:
        lacking.append("root")
    return lacking


def free_port() -> int:
    """An unused port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something listens on a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[int]:
    """A registry on the loopback with the suite's images; its port."""
    port = free_port()
    storage = f"storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}"
    settings = folder / "registry.yml"
    settings.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error}}\n")
    log = folder / "registry.log"
    with process("docker-registry", "serve", settings, log=log):
        wait_for("the registry", lambda: answers(port), log)
        push_all(f"127.0.0.1:{port}", CACHE)
        yield port


@attrs.frozen
class Run:
    """What one run has for itself: by its number the name of its files, its bridge, and a part of 10.87.0.0/16."""

    number: int

    @property
    def bridge(self) -> str:
        """The name of its bridge."""
        return f"crisuite-{self.number}"

    @property
    def subnet(self) -> str:
        """The addresses of its pods, a thousand."""
        return f"10.87.{4 * self.number}.0/22"

    def named(self, name: str) -> str:
        """The name of the files that stay of it; the first of several runs has the plain one."""
        return f"{name}-{self.number}" if self.number else name


def stop_slice() -> None:
    """Stop the slice of the suite's pods, which nothing else does, where systemd runs."""
    if Path("/run/systemd/system").is_dir():
        merged_output("systemctl", "stop", SLICE)


@contextlib.contextmanager
def claimed(last: Callable[[], None] = stop_slice) -> Iterator[Run]:
    """The lowest number that no other run has: sockets without files are those of a network namespace, as bridges are.

    The last run to end calls `last`, before another one begins. Raises `ResourceExhausted`.
    """
    with contextlib.ExitStack() as claim:
        with _turn():
            number = next((number for number in range(RUNS) if _claim(number, claim)), None)
        if number is None:
            raise ResourceExhausted(f"{RUNS} runs of the suite are under way")
        try:
            yield Run(number)
        finally:
            with _turn():
                with contextlib.ExitStack() as probes:
                    others = any(not _claim(other, probes) for other in range(RUNS) if other != number)
                if not others:
                    last()
                claim.close()


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """The lock around the begin and the end of a run, of which a killed process leaves nothing."""
    with socket.socket(socket.AF_UNIX) as lock:
        while not _bind(lock, "turn"):
            time.sleep(0.1)  # as long as systemctl of the other run takes
        yield


def _claim(number: int, stack: contextlib.ExitStack) -> bool:
    return _bind(stack.enter_context(socket.socket(socket.AF_UNIX)), str(number))


def _bind(own: socket.socket, name: str) -> bool:
    try:
        own.bind(f"{CLAIMS}{name}")
    except OSError:
        return False
    return True


def write_network(folder: Path, bridge: str, subnet: str) -> None:
    """A network of CNI in the folder's `net.d`."""
    (folder / "net.d").mkdir(exist_ok=True)
    (folder / "net.d" / "10-suite.conflist").write_text(NETWORK % (bridge, subnet, folder / "addresses"))


def write_settings(folder: Path, run: Run, port: int, backend: str, more: str) -> Path:
    """Crishim's configuration for the suite, with the text `backend` in it and `more` as a drop-in, and what it refers to."""
    mirrors = "".join(
        f'[[registry]]\nlocation = "{host}"\n[[registry.mirror]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n'
        for host in MIRRORED
    )
    (folder / "registries.conf").write_text(mirrors)
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    write_network(folder, run.bridge, run.subnet)
    config = folder / "crishim.toml"
    config.write_text(f"""
listen = "{folder}/cri.sock"
state = "{folder}/state"
runtime_state = "{folder}/run"
[images]
registries_conf = "{folder}/registries.conf"
policy = "{folder}/policy.json"
[network]
config = "{folder}/net.d"
[nri]
socket = "{folder}/nri.sock"
plugins = "{folder}/nri"
{backend}
""")
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / "50-more.toml").write_text(more)
    return config


def critest(folder: Path, endpoint: Path, arguments: Sequence[str], output_file: Path) -> str:
    """Run the suite against a socket; its report is written beside `output_file`, which gets the whole output."""
    endpoints = [f"--{kind}-endpoint=unix://{endpoint}" for kind in ("runtime", "image")]
    junit = folder / "report.xml"
    options = (*endpoints, "--ginkgo.no-color", f"--ginkgo.junit-report={junit}", *arguments)
    output = merged_output(critest_program(), *options, cwd=folder)
    output_file.parent.mkdir(parents=True, exist_ok=True)
    output_file.write_text(output)
    if not junit.exists():
        raise Unknown(f"critest has written no report:\n{output[-2000:]}")
    shutil.copy2(junit, output_file.with_suffix(".xml"))
    return output_file.with_suffix(".xml").read_text()


async def _remove_pods(endpoint: str) -> None:
    """Remove what an interrupted suite has left."""
    async with connect(endpoint) as client:
        for pod in await client.list_sandboxes({}):
            with contextlib.suppress(CallError):
                await client.stop_sandbox(pod.id)
                await client.remove_sandbox(pod.id)


def run_suite(
    name: str, backend: Callable[[Path, int], AbstractContextManager[str]], arguments: Sequence[str], more: str = ""
) -> tuple[str, Path]:
    """Run the suite against a backend, in a folder of its own; the report, JUnit's XML, and its file, which the next run
    of this number replaces. `arguments` go to critest.

    `backend` gets that folder and the registry's port, and gives text of crishim's configuration, with the tables `handlers`
    and `backends`, for as long as crishim runs; `more` is a drop-in for it. The output and crishim's log stay beside the report
    in CACHE, under `name`, with a number for a run beside another one.
    """
    with tempfile.TemporaryDirectory(prefix="suite") as made, claimed() as own:
        folder = Path(made)
        folder.chmod(0o711)  # the first process of a user namespace must reach its root in here
        endpoint, log, output = folder / "cri.sock", folder / "serve.log", CACHE / f"{own.named(name)}.txt"
        try:
            with registry(folder) as port, backend(folder, port) as text:
                config = write_settings(folder, own, port, text, more)
                with process(sys.executable, "-m", "crishim", "serve", "--config", config, log=log):
                    wait_for("crishim", endpoint.exists, log)
                    try:
                        report = critest(folder, endpoint, (f"--nri-socket={folder}/nri.sock", *arguments), output)
                    finally:
                        asyncio.run(_remove_pods(f"unix://{endpoint}"))
        finally:
            if log.exists():
                shutil.copy2(log, output.with_suffix(".log"))
            unmount_below(folder)
            merged_output("ip", "link", "delete", own.bridge)
    return report, output.with_suffix(".xml")
