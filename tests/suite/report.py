"""What the official suite's report (JUnit's XML, as Ginkgo writes it) says, and what of it is excused."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final
from xml.etree import ElementTree as ET

FAILURES: Final[Mapping[str, str]] = {
    "public image with digest should be pulled and removed": "asks for a digest that no image built anew can have",
}
"""Parts of the names of specs that fail for every runtime with rebuilt images, and the reasons."""

SKIPS: Final[Mapping[str, str]] = {
    "AppArmor is disabled on this host": "the host has no AppArmor",
    "benchmark": "the suite's benchmarks are run on their own",
}
"""What the reason, or for want of one the name, of a skipped spec begins with or holds, and what that means."""

OF_RUNTIMES: Final[Mapping[str, Mapping[str, str]]] = {
    "runc": {"no runtime handler found which supports user namespaces": "runc before 1.2 maps no ids of mounts"},
    "crun": {"no runtime handler found which supports user namespaces": "crun before 1.9 maps no ids of volumes"},
    "docker": {
        "no runtime handler found which supports user namespaces": "an engine maps ids for all containers, or none",
        "runtime does not implement recursive readonly mounts": "engines before 25 (API 1.44) have none",
    },
    "shim": {"no runtime handler found which supports user namespaces": "runc before 1.2 maps no ids of mounts"},
}
"""The same for what one runtime's program cannot do."""


FAILED: Final = frozenset({"failed", "panicked", "timedout", "interrupted", "aborted"})
"""What Ginkgo calls a spec that did not pass, and was not left out."""


def outcomes(xml: str) -> dict[str, str]:
    """Of each spec by its name: `passed`, `failed`, or `left out`."""
    found = {}
    for spec in ET.fromstring(xml).iter("testcase"):
        name = spec.get("name", "")
        if name.startswith("[It]"):
            left_out = spec.find("skipped") is not None
            found[name] = "left out" if left_out else "failed" if spec.get("status") in FAILED else "passed"
    return found


def report(xml: str, runtime: str) -> tuple[str, int]:
    """A text for people, and how many specs failed or were left out without an excuse."""
    suite = ET.fromstring(xml)
    lines: list[str] = []
    left_out: dict[str, int] = defaultdict(int)
    passed = failed = bad = 0
    for spec in suite.iter("testcase"):
        name = spec.get("name", "")
        skip = spec.find("skipped")
        if skip is not None:
            reason = skip.get("message", "").removeprefix("skipped - ")
            excuse = skip_excuse(name, reason, runtime)
            bad += not excuse
            left_out[excuse or f"NOT EXCUSED: {name}: {reason}"] += 1
        elif spec.get("status") in FAILED:
            failed += 1
            excuse = next((why for part, why in FAILURES.items() if part in name), "")
            bad += not excuse
            lines.append(f"failed: {name}" + (f" (known: {excuse})" if excuse else ""))
        elif name.startswith("[It]"):
            passed += 1
    lines.extend(f"left out: {count} {reason}" for reason, count in sorted(left_out.items()))
    lines.append(f"{runtime}: {passed} passed, {failed} failed, {sum(left_out.values())} left out")
    return "\n".join(lines), bad


def skip_excuse(name: str, reason: str, runtime: str) -> str:
    """Why it is right that a spec was left out; empty where it is not."""
    known = {**SKIPS, **OF_RUNTIMES.get(runtime, {})}
    return next((why for part, why in known.items() if part in (reason, name) or reason.startswith(part) or part in name), "")
