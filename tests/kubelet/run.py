"""A real kubelet over this checkout: `python -m tests.kubelet.run [--minutes 8] [--if-built] [CHECK ...]`.

Builds the kubelet and its API server where they are not built yet (`build.py`), starts `crishim serve` with runc, or --runtime,
and a standalone kubelet in a folder and a mount namespace of their own, and makes the checks of this folder: those that may,
some at a time, and then the others. Then an API server is started, the kubelet joins it, and the checks follow that need
one. Prints each with the sentence that it shows, as passed, failed or left out with the reason, and their
sums. The logs of kubelet and server stay beside the program in the cache. Ends with 1 if anything failed.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import attrs

from tests.kubelet import api, cluster, life, limits, machine, probes, volumes  # noqa: F401 - they name their checks
from tests.kubelet.build import CACHE, build, missing, unbuilt
from tests.kubelet.checks import CHECKS, Check
from tests.kubelet.settings import NUMBER
from tests.kubelet.world import KubeletNode, LeftOut, images
from tests.node.world import PLUGINS, TOOLS, one_node

AT_A_TIME: Final = 6
NAMESPACE: Final = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --make-rshared / && exec "$@"', "sh")
LATER: Final = "--inside"
OUTSIDE: Final = (Path("/var/lib/kubelet"), Path("/var/log"))
"""Where a kubelet writes whatever its settings say; bound to the node's folder in the mount namespace."""
SYSCTLS: Final = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
"""What a kubelet sets for the whole machine, and we set back."""


@attrs.frozen
class Outcome:
    """What became of a check: passed, failed or left out, and why."""

    check: Check
    how: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.how}: {self.check.name}: {self.check.sentence}" + (f"\n    {self.why}" if self.why else "")


def where(error: Exception) -> str:
    """The line of the check that has failed, and the values that it had."""
    walked = list(traceback.walk_tb(error.__traceback__))[1:2]
    lines = traceback.StackSummary.extract(iter(walked), capture_locals=True)
    return "".join(f"\n    {Path(one.filename).name}:{one.lineno}: {one.line}\n    {one.locals}" for one in lines)[:2000]


def run_check(check: Check, k: KubeletNode, until: float) -> Outcome:
    """Run a check, and remove its pods. None is begun after the time limit."""
    try:
        if time.monotonic() > until:
            raise LeftOut("want of time")
        check.run(k, check.name)
        outcome = Outcome(check, "passed")
    except LeftOut as reason:
        outcome = Outcome(check, "left out", str(reason))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks go on
        outcome = Outcome(check, "failed", f"{type(error).__name__}: {error}{where(error)}")
    k.clean(check.name)
    print(outcome, flush=True)
    return outcome


def settle(k: KubeletNode, seconds: float = 90) -> None:
    """Wait until the kubelet has removed the pods of all checks, at most `seconds`: `nothing_is_left` names what stays.

    A check that runs alone may stop the kubelet. The next kubelet does not unmount the subPaths of a hostPath of a pod whose
    removal was not complete by then (`subpaths_without_a_kubelet`).
    """
    with suppress(AssertionError):
        k.until(lambda: not k.pod_folders(), "the pods' folders are removed", seconds)


def run_checks(checks: Sequence[Check], k: KubeletNode, until: float) -> list[Outcome]:
    """Make checks: those that may, some at a time, and then, when their pods are removed, the others."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        outcomes = list(pool.map(lambda one: run_check(one, k, until), [one for one in checks if not one.alone]))
    settle(k)
    return outcomes + [run_check(one, k, until) for one in checks if one.alone]


def run_all(checks: Sequence[Check], k: KubeletNode, until: float) -> list[Outcome]:
    """Make the checks of a standalone kubelet, and then those that need an API server. None is started after the time limit."""
    outcomes = run_checks([one for one in checks if not one.server], k, until)
    rest = [one for one in checks if one.server]
    if rest and time.monotonic() < until:
        k.join()
    return outcomes + run_checks(rest, k, until)


def report(outcomes: Sequence[Outcome], file: Path) -> None:
    """Write outcomes as JUnit's XML."""
    suite = ET.Element("testsuite", name="kubelet")
    for outcome in outcomes:
        case = ET.SubElement(suite, "testcase", classname="kubelet", name=outcome.check.name)
        if outcome.how != "passed":
            ET.SubElement(case, "failure" if outcome.how == "failed" else "skipped", message=outcome.why)
    ET.ElementTree(suite).write(file)


def bind(place: Path) -> None:
    """Put folders of ours over those that a kubelet writes."""
    for path in OUTSIDE:
        target = place / f"of-{path.name}"
        target.mkdir()
        subprocess.run(["mount", "--bind", target, path], check=True)


@contextmanager
def a_node(programs: Path, runtime: str) -> Iterator[KubeletNode]:
    """Registry, server and kubelet, in a folder that is gone afterwards, as is what the kubelet sets on the machine."""
    CACHE.mkdir(parents=True, exist_ok=True)
    before = {path: path.read_text() for name in SYSCTLS if (path := Path("/proc/sys", name)).exists()}
    with (
        tempfile.TemporaryDirectory() as folder,
        images(Path(folder)) as registry,
        one_node(f"{registry.address}/test/box:1", number=NUMBER, runtime=runtime) as node,
    ):
        k = KubeletNode(node, programs, registry)
        try:
            bind(node.place)
            node.start()
            k.start()
            yield k
        finally:
            k.close()
            for path, value in before.items():
                path.write_text(value)
            for folder_of_log, name in ((k.place, "kubelet"), (node.place, "crishim"), (k.place / "server", "server")):
                if (log := folder_of_log / "log").exists():
                    shutil.copy2(log, CACHE / f"{name}.log")


def lacking() -> list[str]:
    """What this needs and the machine lacks, each with the way to get it."""
    lacks = [f"{tool}: .ci/packages installs it on Debian" for tool in TOOLS if shutil.which(tool) is None]
    if not PLUGINS.exists():
        lacks.append("CNI plugins: apt-get install containernetworking-plugins")
    if os.geteuid() != 0:
        lacks.append("root")
    return [*lacks, *missing()]


def outside(arguments: Sequence[str]) -> int:
    """Run ourselves in a mount namespace."""
    mine = [path for path in OUTSIDE if not path.exists()]
    for path in mine:
        path.mkdir(parents=True)
    programs = build()
    try:
        command = [*NAMESPACE, sys.executable, "-m", "tests.kubelet.run", LATER, str(programs), *arguments]
        return subprocess.run(command, check=False).returncode
    finally:
        for path in mine:
            path.rmdir()


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the checks and their sentences")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no check after that time")
    parser.add_argument("--if-built", action="store_true", help="leave all out where not all is built yet")
    parser.add_argument("--runtime", default="runc", help="the OCI runtime's program; default %(default)s")
    parser.add_argument("--junit", type=Path, help="write a report as JUnit's XML")
    parser.add_argument(LATER, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="some of --list; all without")
    options = parser.parse_args()
    if unknown := set(options.checks) - {one.name for one in CHECKS}:
        parser.error(f"there is no check {', '.join(sorted(unknown))}")
    if options.list:
        print(*(f"{one.name}: {one.sentence}" for one in CHECKS), sep="\n")
        return 0
    if lacks := lacking():
        print("left out: the kubelet, which needs:", *lacks, sep="\n  ")
        return 0
    if options.if_built and unbuilt():
        print(f"left out: the kubelet, of which is not built yet: {', '.join(unbuilt())} (make kubelet builds it)")
        return 0
    if options.inside is None:
        return outside(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what we have started ends with us
    begun = time.monotonic()
    chosen = [one for one in CHECKS if not options.checks or one.name in options.checks]
    with a_node(options.inside, options.runtime) as k:
        outcomes = run_all(chosen, k, begun + 60 * options.minutes)
    if options.junit:
        report(outcomes, options.junit)
    sums = Counter(outcome.how for outcome in outcomes)
    counts = ", ".join(f"{sums[how]} {how}" for how in ("passed", "failed", "left out"))
    print(f"kubelet: {counts} in {(time.monotonic() - begun) / 60:.1f} minutes; logs are in {CACHE}")
    return 1 if sums["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
