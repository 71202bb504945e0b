"""Run the official suite against containerd with runc's own shim and with ours, and list the specs that only ours fails.

    python -m tests.suite.containerd [distribution] [v1.7.35] [v2.2.9] [v2.4.2]          # what follows goes to critest

The distribution's containerd, and those that `tests.suite.build` has built; the newest by both of its sandboxers. Starts a
loopback registry with the suite's images, and one containerd after the other in a folder of its own, each with a network of its
own. The outputs stay in the cache folder, with the daemons' logs. Exits 1 if a spec passes with runc's shim, and not with ours.
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
from crishim.testing.suite.node import CACHE, MIRRORED, critest, missing, registry, write_network
from crishim.testing.suite.programs import process, wait_for
from crishim.testing.suite.report import outcomes
from tests.suite.settings import NEWEST, RELEASES, Handler, Release, Settings

BASELINE: Final = "io.containerd.runc.v2"
OURS: Final = "io.containerd.crishim.v2"
NETWORKS: Final = {BASELINE: ("crisuite1", "10.88.0.0/16"), OURS: ("crisuite2", "10.89.0.0/16")}


def write_config(folder: Path, port: int, runtime: str, release: Release, sandboxer: str) -> Path:
    """Containerd's configuration, and the network that it refers to."""
    write_network(folder, *NETWORKS[runtime])
    options: dict[str, object] = {"SystemdCgroup": True} if cgroup_driver() is CgroupDriver.SYSTEMD else {}
    if runtime == BASELINE:  # with options for another shim than runc's containerd refuses user namespaces
        options["Root"] = f"{folder}/runc"
    return Settings(
        folder=folder,
        release=release,
        handlers=[Handler(name="tested", runtime=runtime, options=options, sandboxer=sandboxer)],
        sandbox_image="registry.k8s.io/pause:3.10",
        hosts=MIRRORED,
        mirror=f"127.0.0.1:{port}",
        networks=folder / "net.d",
    ).write()


def below(folder: Path) -> list[int]:
    """The processes whose command line names the folder: shims and their daemons."""
    own, found = str(os.getpid()), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.name != own and f"{folder}/".encode() in (entry / "cmdline").read_bytes() + b"/":
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def containerd(folder: Path, port: int, runtime: str, release: Release, sandboxer: str) -> Iterator[Path]:
    """A containerd whose pods are run by `runtime`; its socket. Nothing of it is left afterwards."""
    paths = release.path(f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    environment = {"PATH": paths, "CRISHIM_SHIM_STATE": f"{folder}/shim"}
    endpoint = folder / "c.sock"
    command = (
        str(shutil.which("containerd", path=paths)),
        "--config",
        str(write_config(folder, port, runtime, release, sandboxer)),
    )
    try:
        with process(*command, log=folder / "containerd.log", environment=environment):
            version = [str(shutil.which("ctr", path=paths)), "--address", str(endpoint), "version"]
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
        for state in (*folder.glob("runc/*/*/state.json"), *folder.glob("shim/runc/*/*/state.json")):
            delete = ["runc", "--root", str(state.parents[1]), "delete", "--force", state.parent.name]
            subprocess.run(delete, check=False, capture_output=True)
        unmount_below(folder)
        subprocess.run(["ip", "link", "delete", NETWORKS[runtime][0]], check=False, capture_output=True)


def run(runtime: str, port: int, arguments: Sequence[str], release: Release, sandboxer: str = "") -> str:
    """The suite's report of one runtime."""
    output_file = CACHE / f"containerd-{release.name}-{runtime}{sandboxer and '-'}{sandboxer}.txt"
    with tempfile.TemporaryDirectory(prefix="ctd") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the first process of a user namespace must reach its root in here
        try:
            with containerd(folder, port, runtime, release, sandboxer) as endpoint:
                return critest(folder, endpoint, arguments, output_file)
        finally:
            shutil.copy2(folder / "containerd.log", output_file.with_suffix(".log"))
            if (folder / "shim" / "log").exists():
                shutil.copy2(folder / "shim" / "log", output_file.with_suffix(".shim.log"))


def worse(baseline: str, ours: str) -> list[str]:
    """What passes in one report and does not in the other, and how it went there."""
    before, after = outcomes(baseline), outcomes(ours)
    return [f"{after.get(name, 'not run')}: {name}" for name in sorted(before) if before[name] == "passed" != after.get(name)]


def compare(release: Release, port: int, arguments: Sequence[str]) -> list[str]:
    """Run the suite against one containerd with both shims; with ours also as the sandbox. What only ours fails."""
    rows = [(BASELINE, ""), (OURS, "")]
    if release is NEWEST:  # containerd 2.2 panics with this sandboxer for pods on the node's network
        rows.append((OURS, "shim"))
    found, baseline = [], ""
    for runtime, sandboxer in rows:
        title = f"containerd {release.name}, {runtime}{sandboxer and ', sandboxer '}{sandboxer}"
        xml = run(runtime, port, arguments, release, sandboxer)
        sums = Counter(outcomes(xml).values())
        print(f"{title}:", ", ".join(f"{sums[how]} {how}" for how in ("passed", "failed", "left out")), flush=True)
        baseline = baseline or xml
        found += [f"{title}: {line}" for line in worse(baseline, xml)]
    return found


def main() -> int:
    """Run both."""
    lacking = [
        *missing(),
        *(f"{tool}: apt-get install containerd" for tool in ("containerd", "ctr") if not shutil.which(tool)),
    ]
    if lacking:
        print("the official suite needs:", *lacking, sep="\n  ")
        return 1
    names = {release.name: release for release in RELEASES}
    wanted = [release for name, release in names.items() if name in sys.argv[1:]] or list(RELEASES)
    found = []
    with tempfile.TemporaryDirectory(prefix="suite") as folder, registry(Path(folder)) as port:
        for release in wanted:
            if release.missing:
                print("left out:", release.missing)
            else:
                found += compare(release, port, [word for word in sys.argv[1:] if word not in names])
    print("worse with our shim:" if found else "nothing is worse with our shim.", *found, sep="\n  ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
