"""Run the official suite against containerd twice, with runc's own shim and with ours, and list the specs that only ours fails.

    python -m tests.suite.containerd          # what follows goes to critest

Starts a loopback registry with the suite's images, and one containerd after the other in a folder of its own, each with a
network of its own. The outputs stay in the cache folder, with the daemons' logs. Exits 1 if a spec passes with runc's shim,
and not with ours.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from crishim.linux.mounts import unmount_below
from crishim.model.runtime import CgroupDriver
from crishim.pods.host import cgroup_driver
from tests.suite.report import outcomes
from tests.suite.run import (
    CACHE,
    MIRRORED,
    critest,
    missing,
    process,
    registry,
    wait_for,
    write_network,
)

BASELINE: Final = "io.containerd.runc.v2"
OURS: Final = "io.containerd.crishim.v2"
NETWORKS: Final = {BASELINE: ("crisuite1", "10.88.0.0/16"), OURS: ("crisuite2", "10.89.0.0/16")}


def write_config(folder: Path, port: int, runtime: str) -> Path:
    """Containerd's configuration, and the network that it refers to."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    for host in MIRRORED:
        mirror = folder / "hosts" / host / "hosts.toml"
        mirror.parent.mkdir(parents=True)
        mirror.write_text(f'[host."http://127.0.0.1:{port}"]\ncapabilities = ["pull", "resolve"]\n')
    write_network(folder, *NETWORKS[runtime])
    config = folder / "config.toml"
    config.write_text(f"""version = 2
root = "{folder}/lib"
state = "{folder}/run"
[grpc]
address = "{folder}/c.sock"
[{cri}]
sandbox_image = "registry.k8s.io/pause:3.10"
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
stream_server_port = "0"
[{cri}.containerd]
default_runtime_name = "tested"
[{cri}.containerd.runtimes.tested]
runtime_type = "{runtime}"
[{cri}.containerd.runtimes.tested.options]
Root = "{folder}/runc"
SystemdCgroup = {str(cgroup_driver() is CgroupDriver.SYSTEMD).lower()}
[{cri}.cni]
conf_dir = "{folder}/net.d"
bin_dir = "/usr/lib/cni"
[{cri}.registry]
config_path = "{folder}/hosts"
""")
    return config


def below(folder: Path) -> list[int]:
    """The processes whose command line names the folder: shims and their daemons."""
    own, found = str(os.getpid()), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.name != own and f"{folder}/".encode() in (entry / "cmdline").read_bytes() + b"/":
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def containerd(folder: Path, port: int, runtime: str) -> Iterator[Path]:
    """A containerd whose pods are run by `runtime`; its socket. Nothing of it is left afterwards."""
    paths = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    environment = {"PATH": paths, "CRISHIM_SHIM_STATE": f"{folder}/shim"}
    endpoint = folder / "c.sock"
    command = ("containerd", "--config", str(write_config(folder, port, runtime)))
    try:
        with process(*command, log=folder / "containerd.log", environment=environment):
            version = ["ctr", "--address", str(endpoint), "version"]
            wait_for("containerd", lambda: subprocess.run(version, capture_output=True, check=False).returncode == 0)
            yield endpoint
    finally:
        for _ in range(50):
            if not (left := below(folder)):
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        for state in folder.glob("runc/*/*/state.json"):
            delete = ["runc", "--root", str(state.parents[1]), "delete", "--force", state.parent.name]
            subprocess.run(delete, check=False, capture_output=True)
        unmount_below(folder)
        subprocess.run(["ip", "link", "delete", NETWORKS[runtime][0]], check=False, capture_output=True)


def run(runtime: str, port: int, arguments: Sequence[str]) -> str:
    """The suite's report of one runtime."""
    output_file = CACHE / f"containerd-{runtime}.txt"
    with tempfile.TemporaryDirectory(prefix="ctd") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the first process of a user namespace must reach its root in here
        try:
            with containerd(folder, port, runtime) as endpoint:
                return critest(folder, endpoint, arguments, output_file)
        finally:
            shutil.copy2(folder / "containerd.log", output_file.with_suffix(".log"))
            if (folder / "shim" / "log").exists():
                shutil.copy2(folder / "shim" / "log", output_file.with_suffix(".shim.log"))


def worse(baseline: str, ours: str) -> list[str]:
    """What passes in one report and does not in the other, and how it went there."""
    before, after = outcomes(baseline), outcomes(ours)
    return [f"{after.get(name, 'not run')}: {name}" for name in sorted(before) if before[name] == "passed" != after.get(name)]


def main() -> int:
    """Run both."""
    lacking = [
        *missing("containerd"),
        *(f"{tool}: apt-get install containerd" for tool in ("containerd", "ctr") if not shutil.which(tool)),
    ]
    if lacking:
        print("the official suite needs:", *lacking, sep="\n  ")
        return 1
    xml = {}
    with tempfile.TemporaryDirectory(prefix="suite") as name, registry(Path(name)) as port:
        for runtime in (BASELINE, OURS):
            xml[runtime] = run(runtime, port, sys.argv[1:])
            sums = Counter(outcomes(xml[runtime]).values())
            print(f"{runtime}:", ", ".join(f"{sums[how]} {how}" for how in ("passed", "failed", "left out")), flush=True)
    found = worse(xml[BASELINE], xml[OURS])
    print("worse with our shim:" if found else "nothing is worse with our shim.", *found, sep="\n  ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
