"""Run the official conformance suite (critest) against a backend of this checkout, in folders of its own.

    python -m tests.suite.run runc            # or crun, or docker; what follows goes to critest

Starts a loopback registry with the suite's images and `crishim serve`, runs critest, prints its sums and what failed or was
left out, and stops what it started. The whole output stays in the cache folder, with crishim's log. Exits 0 only if nothing
failed or was left out but what `report.py` excuses, with its reason.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from crishim.linux.mounts import unmount_below
from tests.suite import engine
from tests.suite.images import push_all
from tests.suite.report import report

CRITEST: Final = os.environ.get("CRITEST", "critest")
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "crishim-suite"
MIRRORED: Final = ("registry.k8s.io", "gcr.io", "k8s.gcr.io")
TOOLS: Final = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "nginx": "nginx-core",
    "catatonit": "catatonit",
    "cc": "gcc libc6-dev",
    "dpkg-source": "dpkg-dev",
}
BRIDGE: Final = "crisuite0"
SUBNET: Final = "10.87.0.0/16"
SLICE: Final = "test.slice"
NETWORK: Final = """{
  "cniVersion": "1.0.0", "name": "crishim-suite",
  "plugins": [
    {"type": "bridge", "bridge": "%s", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "%s"}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
    {"type": "firewall"}
  ]
}"""


def missing(runtime: str) -> list[str]:
    """What the suite needs and this machine lacks, each with the way to get it."""
    lacking = [f"{tool}: apt-get install {package}" for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if shutil.which(CRITEST) is None:
        lacking.append("critest: on PATH or named by $CRITEST; docs/how-to/debug.md says how to get it")
    if runtime == "docker" and not engine.available():
        lacking.append("dockerd: apt-get install docker.io")
    if os.geteuid() != 0:
        lacking.append("root")
    return lacking


def free_port() -> int:
    """An unused port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(*command: str, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A server for the duration of a context, ended by its pid; `environment` is added to ours."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(environment or {})})
        try:
            yield
        finally:
            started.terminate()
            started.wait(30)


def wait_for(condition: str, ready: object) -> None:
    """Wait until `ready()` is true; at most half a minute."""
    for _ in range(300):
        if ready():  # type: ignore[operator]
            return
        time.sleep(0.1)
    raise SystemExit(f"{condition} did not come up")


def answers(port: int) -> bool:
    """Whether something listens on a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def backend_of(runtime: str, folder: Path) -> str:
    """The part of crishim's configuration that names the backend."""
    if runtime == "docker":
        return f'[backends.docker]\nsocket = "{folder}/docker.sock"'
    if runtime == "shim":
        return '[backends.shim]\nshim = "io.containerd.runc.v2"'
    return f'[backends.{runtime}]\nplugin = "runc"\nruntime = "{runtime}"'


def write_network(folder: Path, bridge: str, subnet: str) -> None:
    """A network of CNI in the folder's `net.d`."""
    (folder / "net.d").mkdir(exist_ok=True)
    (folder / "net.d" / "10-suite.conflist").write_text(NETWORK % (bridge, subnet, folder / "addresses"))


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[int]:
    """A registry on the loopback with the suite's images; its port."""
    port = free_port()
    storage = f"storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}"
    settings = folder / "registry.yml"
    settings.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error}}\n")
    with process("docker-registry", "serve", str(settings), log=folder / "registry.log"):
        wait_for("the registry", lambda: answers(port))
        push_all(f"127.0.0.1:{port}", CACHE)
        yield port


def critest(folder: Path, endpoint: Path, arguments: Sequence[str], output_file: Path) -> str:
    """Run the suite against a socket; its report is written beside `output_file`, which gets the whole output."""
    endpoints = [f"--{kind}-endpoint=unix://{endpoint}" for kind in ("runtime", "image")]
    done = subprocess.run(
        [CRITEST, *endpoints, "--ginkgo.no-color", f"--ginkgo.junit-report={folder}/report.xml", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=folder,
    )
    output_file.write_text(done.stdout)
    if not (folder / "report.xml").exists():
        raise SystemExit(done.stdout[-2000:])
    shutil.copy2(folder / "report.xml", output_file.with_suffix(".xml"))
    return output_file.with_suffix(".xml").read_text()


def write_settings(folder: Path, port: int, runtime: str) -> Path:
    """Crishim's configuration for the suite, and the files that it refers to."""
    mirrors = "".join(
        f'[[registry]]\nlocation = "{host}"\n[[registry.mirror]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n'
        for host in MIRRORED
    )
    (folder / "registries.conf").write_text(mirrors)
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    write_network(folder, BRIDGE, SUBNET)
    config = folder / "crishim.toml"
    config.write_text(f"""
listen = "{folder}/cri.sock"
state = "{folder}/state"
runtime_state = "{folder}/run"
[handlers]
"" = "{runtime}"
{backend_of(runtime, folder)}
[images]
registries_conf = "{folder}/registries.conf"
policy = "{folder}/policy.json"
[network]
config = "{folder}/net.d"
[nri]
socket = "{folder}/nri.sock"
plugins = "{folder}/nri"
""")
    return config


def main() -> int:
    """Run the suite once."""
    runtime = sys.argv[1] if len(sys.argv) > 1 else "runc"
    if lacking := missing(runtime):
        print("the official suite needs:", *lacking, sep="\n  ")
        return 1
    with tempfile.TemporaryDirectory(prefix="suite") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the first process of a user namespace must reach its root in here
        with registry(folder) as port:
            config = write_settings(folder, port, runtime)
            serve = (sys.executable, "-m", "crishim", "serve", "--config", str(config))
            beneath = engine.engine(folder, port, MIRRORED) if runtime == "docker" else contextlib.nullcontext()
            with beneath, process(*serve, log=folder / "serve.log"):
                wait_for("crishim", (folder / "cri.sock").exists)
                arguments = (f"--nri-socket={folder}/nri.sock", *sys.argv[2:])
                xml = critest(folder, folder / "cri.sock", arguments, CACHE / f"{runtime}.txt")
                text, bad = report(xml, runtime)
                print(text)
            shutil.copy2(folder / "serve.log", CACHE / f"{runtime}.log")
        unmount_below(folder)
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False, stderr=subprocess.DEVNULL)
    if Path("/run/systemd/system").is_dir():  # the slice of the suite's pods, which nothing else stops
        subprocess.run(["systemctl", "stop", SLICE], check=False, stderr=subprocess.DEVNULL)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
