"""Run the official suite against containerd with runc's own shim: what passes there and not over this checkout's runc backend.

    python -m tests.suite.baseline REPORT

Compares with the last report of `tests.suite.run runc`, writes a JUnit report of the specs that pass with containerd to REPORT,
and exits 1 if one of them does not pass with us.
"""

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from crishim.testing.suite.node import CACHE, SLICE, missing, registry
from crishim.testing.suite.report import outcomes
from tests.suite.containerd import BASELINE, run, worse
from tests.suite.settings import DISTRIBUTION

OURS: Final = "runc"


def comparison(baseline: str, ours: str) -> str:
    """A JUnit report: of each spec that passes in one report, whether it does in the other."""
    suite = ET.Element("testsuite")
    failed = {line.partition(": ")[2] for line in worse(baseline, ours)}
    for name, how in sorted(outcomes(baseline).items()):
        if how == "passed":
            case = ET.SubElement(suite, "testcase", classname="containerd", name=name.removeprefix("[It] "))
            if name in failed:
                ET.SubElement(case, "failure")
    return ET.tostring(suite, encoding="unicode")


def main() -> int:
    """Run it."""
    ours = CACHE / f"{OURS}.xml"
    lacking = [
        *missing(),
        *(f"{tool}: apt-get install containerd" for tool in ("containerd", "ctr") if not shutil.which(tool)),
    ]
    if not ours.exists():
        lacking.append(f"{ours}: python -m tests.suite.run {OURS} writes it")
    if lacking:
        print("the comparison with containerd needs:", *lacking, sep="\n  ")
        return 1
    with tempfile.TemporaryDirectory(prefix="suite") as made, registry(Path(made)) as port:
        theirs = run(BASELINE, port, (), DISTRIBUTION)
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "stop", SLICE], check=False, stderr=subprocess.DEVNULL)
    version = subprocess.run(["containerd", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    for name, xml in ((f"containerd {version}", theirs), ("crishim", ours.read_text())):
        sums = Counter(outcomes(xml).values())
        print(f"{name}:", ", ".join(f"{sums[how]} {how}" for how in ("passed", "failed", "left out")), flush=True)
    found = worse(theirs, ours.read_text())
    print("passes there, and not with us:" if found else "what passes there passes with us.", *found, sep="\n  ")
    Path(sys.argv[1]).write_text(comparison(theirs, ours.read_text()))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
