"""The shim server beside containerd's own shim, in one containerd: `ctr run`, memory of what serves 50 tasks, the launcher.

Prints the measurements of one run on one machine; nothing is asserted. Needs root, containerd, runc, conmon and busybox.

    python -m bench.shim_server
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.node.world import processes
from tests.shimv2.containerd import RUNTIME, Containerd, containerd

RUNS = 40
WARM = 2
TASKS = 50
PAUSE = 0.1
"""Seconds between runs, as on a node: what follows at once finds the kernel prepared for moves between cgroups."""

GO = "io.containerd.runc.v2"


def ctr_run(node: Containerd, runtime: str, name: str, *argv: str, detached: bool = False) -> float:
    """Milliseconds of a `ctr run`."""
    options = ["-d"] if detached else ["--rm"]
    begun = time.perf_counter()
    done = node.ctr("run", "--rootfs", "--runtime", runtime, "--env", "PATH=/bin", *options, str(node.root), name, *argv)
    took = (time.perf_counter() - begun) * 1000
    assert done.returncode == 0, done.stderr
    return took


def pss(pids: list[int]) -> int:
    """KiB of proportional memory."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += int(text.split("\nPss:")[1].split()[0])
    return total


def servers(node: Containerd, runtime: str) -> list[int]:
    """What serves the tasks: the daemon and its monitors, or Go's shims."""
    if runtime == GO:
        return [
            pid for pid, line in processes(str(node.folder)) if line.startswith("containerd-shim") or "shim-runc-v2" in line
        ]
    return [node.daemon(), *(pid for pid, line in processes(str(node.folder)) if line.startswith("conmon"))]


def launcher() -> None:
    """What one start of the thin program costs, and what it loads."""
    program = f"{Path(sys.executable).parent}/containerd-shim-crishim-v2"
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        subprocess.run([program, "-v"], check=True, capture_output=True)
        times.append((time.perf_counter() - begun) * 1000)
    code = "import sys; before = set(sys.modules); import crishim.shimv2.server.launcher; print(len(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    print(f"launcher: {statistics.median(times):.1f} ms a start, {loaded} modules beyond the interpreter's own")


def main() -> None:
    """Measure both: short runs by turns, then many tasks of one after the other."""
    launcher()
    times: dict[str, list[float]] = {GO: [], RUNTIME: []}
    memory = {}
    with containerd() as node:
        for number in range(-WARM, RUNS):
            for runtime in (GO, RUNTIME):
                took = ctr_run(node, runtime, f"r{number}", "true")
                time.sleep(PAUSE)
                if number >= 0:
                    times[runtime].append(took)
        for runtime in (GO, RUNTIME):
            names = [f"t{number}" for number in range(TASKS)]
            for name in names:
                ctr_run(node, runtime, name, "sleep", "600", detached=True)
            memory[runtime] = pss(servers(node, runtime)) / TASKS
            for name in names:
                node.ctr("task", "rm", "-f", name)
                node.ctr("container", "rm", name)
    found = {
        runtime: [statistics.median(took), statistics.quantiles(took, n=20)[-1], memory[runtime]]
        for runtime, took in times.items()
    }
    print(f"{'':26}{'Go':>12}{'crishim':>12}{'ratio':>8}")
    for row, theirs, ours in zip(
        ("ctr run, ms", "ctr run p95, ms", "KiB per task at 50"), found[GO], found[RUNTIME], strict=True
    ):
        print(f"{row:26}{theirs:12.1f}{ours:12.1f}{ours / theirs:8.2f}")


if __name__ == "__main__":
    main()
