"""Run the official suite against CRI-O with runc and with our shim, and list the specs that only our shim fails.

    python -m tests.suite.crio          # what follows goes to critest

CRI-O is the `crio` on PATH. Starts a loopback registry with the suite's images, and one CRI-O after the other in a folder of
its own. The outputs stay in the cache folder. Exits 1 if a spec passes with runc, and not with our shim.
"""

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from crishim.testing.suite.node import CACHE, MIRRORED, critest, missing, registry
from crishim.testing.suite.report import outcomes
from tests.shimv2.crio import OURS, PROGRAMS, RUNC_ALONE, crio
from tests.suite.containerd import worse

KNOWN_OF_CRIO: Final = {
    "portforward": "CRI-O's port-forward to a pod of the type vm does nothing",
    "recursive readonly mount": "CRI-O asks no runtime of the type vm for its features",
}
"""What CRI-O 1.37 itself does not do for our shim, by words of the specs' names (internal/oci/runtime_vm.go)."""

PAUSE: Final = "registry.k8s.io/pause:3.10"


def run(handler: str, port: int, arguments: Sequence[str]) -> str:
    """The suite's report with one handler for all pods."""
    output = CACHE / f"crio-{handler}.txt"
    with crio(PAUSE, "crisuite3", f"127.0.0.1:{port}", MIRRORED, handler) as node:
        try:
            node.wait()
            return critest(node.folder, node.folder / "cri.sock", arguments, output)
        finally:
            shutil.copy2(node.folder / "log", output.with_suffix(".log"))
            if (node.state / "log").exists():
                shutil.copy2(node.state / "log", output.with_suffix(".shim.log"))


def main() -> int:
    """Run both."""
    lacking = [*missing(), *(f"{tool}: CRI-O's packages have it" for tool in PROGRAMS if not shutil.which(tool))]
    if lacking:
        print("the official suite needs:", *lacking, sep="\n  ")
        return 1
    reports = {}
    with tempfile.TemporaryDirectory(prefix="suite") as folder, registry(Path(folder)) as port:
        for handler in (RUNC_ALONE, OURS):
            reports[handler] = run(handler, port, sys.argv[1:])
            sums = Counter(outcomes(reports[handler]).values())
            print(f"CRI-O, {handler}:", ", ".join(f"{sums[how]} {how}" for how in ("passed", "failed", "left out")), flush=True)
    found = []
    for line in worse(reports[RUNC_ALONE], reports[OURS]):
        reason = next((reason for words, reason in KNOWN_OF_CRIO.items() if words in line), "")
        if reason:
            print(f"{line}\n    {reason}")
        else:
            found.append(line)
    print("worse with our shim:" if found else "nothing is worse with our shim.", *found, sep="\n  ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
