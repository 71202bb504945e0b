"""Test this checkout on a node with systemd, cgroup v2 and AppArmor or SELinux:
`python -m tests.guest.run [--minutes 25] [PART ...]`.

Has the guest made (`build.py`), boots it, installs the wheel of this checkout, and runs the parts below inside, in their order.
Prints what passed, failed and was left out of each, and whether it left the node as it was. No part is begun that would not
end within the minutes; which ones were left out for that is printed. Ends with 1 if anything failed.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import attrs

from crishim.testing.suite.images import busybox
from crishim.testing.suite.node import CACHE, critest_program
from crishim.testing.suite.report import outcomes
from tests.guest.build import CHECKOUT, Unobtainable, build, missing
from tests.guest.machine import LATE, Machine, alone
from tests.kubelet.build import PROGRAMS, cached, unbuilt

PYTHON: Final = "/opt/crishim/bin/python"
CHECKOUT_INSIDE: Final = "/root/checkout"
NO_SUITE: Final = "it needs critest (releases of kubernetes-sigs/cri-tools) and dpkg-source (apt-get install dpkg-dev) here"


@attrs.frozen
class Part:
    """A part of the run. Its scripts are for bash, in the checkout inside, and leave JUnit reports in /share/reports; the guest
    is booted anew between two of them. `minutes` is what it needs at most on two cores; each script may take twice as long.
    What a part that is not `ours` leaves on the node is printed, and no failure. `security`: the kernel's security module.
    """

    name: str
    minutes: float
    scripts: tuple[str, ...]
    ours: bool = True
    security: str = "apparmor"


def pytest(name: str, minutes: float, *arguments: str) -> Part:
    """A part that is pytest's, or several calls of it with a reboot before each but the first."""
    scripts = tuple(
        f"CRISHIM_MOMENTS=8 {PYTHON} -m pytest -q -p no:cacheprovider --junitxml=/share/reports/{number}.xml {words}"
        for number, words in enumerate(arguments)
    )
    return Part(name, minutes, scripts)


def selinux() -> Part:
    """Tests on a kernel with SELinux, whose policy is enforced for this part."""
    part = pytest("selinux", 3, "tests/guest/test_selinux.py")
    policy = "semodule -i examples/crishim.cil && restorecon -RF /usr/lib/cni && setenforce 1"
    return attrs.evolve(part, scripts=tuple(f"{policy} && {script}" for script in part.scripts), security="selinux")


def suite(runtime: str) -> Part:
    """The official suite."""
    script = (
        f"export XDG_CACHE_HOME=/share/cache CRITEST=/share/critest; {PYTHON} -m tests.suite.run {runtime}; code=$?; "
        f"cp /share/cache/crishim-suite/{runtime}.xml /share/reports/; exit $code"
    )
    return Part(f"suite-{runtime}", 7, (script,))


def baseline() -> Part:
    """The official suite over containerd, compared with that over runc, which runs before it."""
    script = f"export XDG_CACHE_HOME=/share/cache CRITEST=/share/critest; {PYTHON} -m tests.suite.baseline /share/reports/1.xml"
    return Part("baseline", 9, (script,), ours=False)


def kubelet(runtime: str, minutes: float) -> Part:
    """A real kubelet, with an OCI runtime."""
    script = (
        f"export XDG_CACHE_HOME=/share/cache CRISHIM_KUBELET=/share/kubelet; "
        f"{PYTHON} -m tests.kubelet.run --runtime {runtime} --minutes {minutes - 2} --junit /share/reports/kubelet.xml"
    )
    return Part(f"kubelet-{runtime}", minutes, (script,))


EXAMS: Final = "tests/conformance/test_runtimes.py tests/backends/runc/test_exam.py"
PARTS: Final = (
    pytest("life", 7, "tests/guest --ignore=tests/guest/test_reboot.py --ignore=tests/guest/test_selinux.py"),
    pytest("exam", 6, f"{EXAMS} -k UnderSystemd"),
    pytest("reboot", 2, "tests/guest/test_reboot.py -k before", "tests/guest/test_reboot.py -k after"),
    pytest("node", 6, "tests/node tests/linux tests/monitor tests/pods"),
    selinux(),
    suite("runc"),
    pytest("exam-cgroupfs", 8, f"{EXAMS} -k 'not UnderSystemd and not Runsc'"),
    suite("crun"),
    kubelet("runc", 18),
    pytest("backend", 4, "tests/backends/runc --ignore=tests/backends/runc/test_exam.py"),
    baseline(),
    kubelet("crun", 18),
)
"""In the order of what is worth most."""


@attrs.define
class Outcome:
    """What became of one part; `bad` unless it ended with 0 and left nothing. The suite knows failures that it excuses."""

    sums: Counter[str] = attrs.Factory(Counter)
    lines: list[str] = attrs.Factory(list)
    bad: bool = False
    minutes: float = 0.0

    def line(self, name: str) -> str:
        """A sentence for people."""
        counts = ", ".join(f"{self.sums[how]} {how}" for how in ("passed", "failed", "left out"))
        return f"guest: {name}: {counts}, in {self.minutes:.1f} minutes" + "".join(f"\n  {line}" for line in self.lines)


class Run:
    """One run of the parts in one guest, within a bound of time (None: none)."""

    def __init__(self, machine: Machine, until: float | None) -> None:
        self._machine = machine
        self._until = until
        self._security = ""

    def left(self) -> float:
        """Seconds that are left."""
        return 1e9 if self._until is None else self._until - time.monotonic()

    def install(self) -> None:
        """Boot, and have the wheel and the tests of this checkout inside. Raises SystemExit where that fails."""
        self._boot("apparmor")
        share = self._machine.share
        for name in ("checkout", "wheel", "reports"):
            shutil.rmtree(share / name, ignore_errors=True)
        build_wheel = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
        done = subprocess.run(
            [*build_wheel, "--outdir", share / "wheel", CHECKOUT], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"the wheel could not be built:\n{done.stderr[-1000:]}")
        (share / "reports").mkdir(parents=True)
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        for name in ("tests", "examples"):
            shutil.copytree(CHECKOUT / name, share / "checkout" / name, ignore=ignored)
        shutil.copy2(CHECKOUT / "pyproject.toml", share / "checkout")
        script = f"""set -e
rm -rf {CHECKOUT_INSIDE}; cp -r /share/checkout {CHECKOUT_INSIDE}
/opt/crishim/bin/pip -q install --no-index --no-deps --force-reinstall /share/wheel/*.whl
crishim --version; runc --version | head -1; crun --version | head -1; uname -r; systemctl --version | head -1"""
        if self._machine.run(script, timeout=300):
            raise SystemExit("the checkout could not be installed in the guest")

    def part(self, part: Part) -> Outcome:
        """Run a part, and look at what it has left."""
        begun, reports = time.monotonic(), self._machine.share / "reports"
        self._boot(part.security)
        before = self._traces()
        outcome = Outcome()
        for number, script in enumerate(part.scripts):
            shutil.rmtree(reports)
            reports.mkdir()
            if number:
                self._machine.start(part.security)
            code = self._machine.run(f"cd {CHECKOUT_INSIDE} && {script}", timeout=120 * part.minutes)
            if code:
                outcome.bad = True
                outcome.lines.append("was not done in twice its time" if code == LATE else f"ended with {code}")
            if code == LATE:  # nothing of it may run beside the next part
                self._machine.start(part.security)
            for report in reports.glob("*.xml"):
                ends = read_report(report.read_text(encoding="utf-8"))
                outcome.sums += Counter(ends.values())
                outcome.lines += [f"failed: {name}" for name, how in ends.items() if how == "failed"]
        after = self._traces()
        outcome.lines += [f"left behind: {line}" for line in sorted(after - before)]
        outcome.lines += [f"taken away: {line}" for line in sorted(before - after)]
        outcome.bad |= part.ours and after != before
        outcome.minutes = (time.monotonic() - begun) / 60
        return outcome

    def _boot(self, security: str) -> None:
        """Have it run with a security module."""
        if security != self._security:
            self._machine.start(security)
            self._security = security

    def _traces(self) -> set[str]:
        traces = self._machine.share / "traces"
        if self._machine.run(f"python3 {CHECKOUT_INSIDE}/tests/guest/traces.py > /share/traces", timeout=60):
            raise SystemExit("the mounts and cgroups of the guest cannot be listed")
        return set(json.loads(traces.read_text(encoding="utf-8")))


def read_report(xml: str) -> dict[str, str]:
    """Of each test by its name `passed`, `failed` or `left out`, by a report of pytest's or Ginkgo's."""
    if "[It]" in xml:
        return outcomes(xml)
    found = {}
    for case in ET.fromstring(xml).iter("testcase"):
        kinds = {child.tag for child in case}
        how = "failed" if kinds & {"failure", "error"} else "left out" if "skipped" in kinds else "passed"
        found[f"{case.get('classname')}.{case.get('name')}"] = how
    return found


def suites_files(share: Path) -> bool:
    """Put into the shared folder what the official suite takes from the host; whether it is there at all."""
    critest = shutil.which(critest_program())
    if critest is None or shutil.which("dpkg-source") is None:
        return False
    share.mkdir(parents=True, exist_ok=True)
    shutil.copy2(critest, share / "critest")
    target = share / "cache/crishim-suite"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(busybox(CACHE), target)
    return True


def kubelets_files(share: Path) -> bool:
    """Put the kubelet and its API server into the shared folder; whether they are built at all."""
    if unbuilt():
        return False
    (share / "kubelet").mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        shutil.copy2(cached() / name, share / "kubelet")
    return True


def run(parts: Sequence[Part], minutes: float | None) -> int:
    """Run parts; how many failed."""
    begun = time.monotonic()
    build()
    machine = Machine()
    this = Run(machine, None if minutes is None else begun + 60 * minutes)
    with_suite, with_kubelet = suites_files(machine.share), kubelets_files(machine.share)
    lines, bad = [], 0
    try:
        machine.fresh()
        this.install()
        for part in parts:
            if (part.name.startswith("suite-") or part.name == "baseline") and not with_suite:
                lines.append(f"guest: left out: {part.name}: {NO_SUITE}")
            elif part.name.startswith("kubelet-") and not with_kubelet:
                lines.append(f"guest: left out: {part.name}: it is not built yet in {cached()} (make kubelet builds it)")
            elif this.left() < 60 * part.minutes:
                lines.append(f"guest: left out for want of time: {part.name}, which takes up to {part.minutes} minutes")
            else:
                print(f"guest: {part.name}", flush=True)
                outcome = this.part(part)
                bad += outcome.bad
                lines.append(outcome.line(part.name))
    finally:
        machine.stop()
    print(*lines, f"guest: {'FAILED' if bad else 'passed'} in {(time.monotonic() - begun) / 60:.0f} minutes", sep="\n")
    return bad


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="begin no part that would not end by then")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(part.name for part in PARTS)}; all without")
    options = parser.parse_args()
    if unknown := set(options.parts) - {part.name for part in PARTS}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if lacking := missing():
        print("left out: the guest, which needs:", *lacking, sep="\n  ")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the guest ends with us
    chosen = [part for part in PARTS if not options.parts or part.name in options.parts]
    try:
        with alone():
            return 1 if run(chosen, options.minutes) else 0
    except Unobtainable as error:
        print(f"left out: the guest, whose packages cannot be had: {error}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
