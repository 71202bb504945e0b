"""The suite's report (JUnit's XML, as Ginkgo writes it), and what is known: which specs may fail or be left out, and why."""

import tomllib
from collections import defaultdict
from collections.abc import Mapping
from typing import Final
from xml.etree import ElementTree as ET

import attrs

from crishim.errors import InvalidArgument
from crishim.model.values import FrozenDict

FAILED: Final = frozenset({"failed", "panicked", "timedout", "interrupted", "aborted"})
"""What Ginkgo calls a spec that did not pass, and was not left out."""


NOT_SELECTED: Final = "skipped"
"""The message of a spec that the suite's own options, such as --ginkgo.focus, have left out."""


@attrs.frozen
class KnownSpecs:
    """Specs that may fail or be left out, with the reasons.

    `failures` has parts of the names of specs; `skips` has what the message of a skipped spec begins with, or a part of its
    name.
    """

    failures: FrozenDict[str, str] = FrozenDict()
    skips: FrozenDict[str, str] = FrozenDict()

    def __or__(self, other: "KnownSpecs") -> "KnownSpecs":
        return KnownSpecs(FrozenDict({**self.failures, **other.failures}), FrozenDict({**self.skips, **other.skips}))

    def failure(self, name: str) -> str:
        """Why a spec may fail; empty if it may not."""
        return next((why for part, why in self.failures.items() if part in name), "")

    def skip(self, name: str, message: str) -> str:
        """Why a spec may be left out; empty if it may not."""
        return next((why for part, why in self.skips.items() if message.startswith(part) or part in name), "")


EVERYWHERE: Final = KnownSpecs(
    FrozenDict(
        {"public image with digest should be pulled and removed": "asks for a digest that no image built anew can have"}
    ),
    FrozenDict(
        {
            "AppArmor is disabled on this host": "the host has no AppArmor",
            "benchmark": "the suite's benchmarks are run on their own",
        }
    ),
)
"""What is known of every runtime with rebuilt images."""


def read_known(text: str) -> KnownSpecs:
    """The content of an author's file, TOML: the tables `failures` and `skips` of texts. Raises `InvalidArgument`."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument("the file of what is known", f"is no TOML: {error}") from error
    for name, table in tables.items():
        if name not in {"failures", "skips"}:
            raise InvalidArgument(name, "the tables are failures and skips")
        if not isinstance(table, Mapping) or not all(isinstance(why, str) and why for why in table.values()):
            raise InvalidArgument(name, "must be a table of reasons, each a text")
    return KnownSpecs(FrozenDict(tables.get("failures", {})), FrozenDict(tables.get("skips", {})))


def outcomes(xml: str) -> dict[str, str]:
    """Of each spec by its name: `passed`, `failed`, or `left out`."""
    found = {}
    for spec in ET.fromstring(xml).iter("testcase"):
        name = spec.get("name", "")
        if name.startswith("[It]"):
            left_out = spec.find("skipped") is not None
            found[name] = "left out" if left_out else "failed" if spec.get("status") in FAILED else "passed"
    return found


def report(xml: str, title: str, known: KnownSpecs) -> tuple[str, int]:
    """A text for people that ends with the sums of `title`, and how many specs failed or were left out and are not known; 1 if
    none has passed.
    """
    lines: list[str] = []
    left_out: dict[str, int] = defaultdict(int)
    passed = failed = bad = 0
    for spec in ET.fromstring(xml).iter("testcase"):
        name = spec.get("name", "")
        skip = spec.find("skipped")
        if skip is not None:
            message = skip.get("message", "").removeprefix("skipped - ")
            reason = known.skip(name, message) or ("not selected" if message == NOT_SELECTED else "")
            bad += not reason
            left_out[reason or f"NOT KNOWN: {name}: {message}"] += 1
        elif spec.get("status") in FAILED:
            failed += 1
            reason = known.failure(name)
            bad += not reason
            lines.append(f"failed: {name}" + (f" (known: {reason})" if reason else ""))
        elif name.startswith("[It]"):
            passed += 1
            if reason := known.failure(name):
                lines.append(f"passed, though known to fail: {name} ({reason})")
    lines.extend(f"left out: {count} {reason}" for reason, count in sorted(left_out.items()))
    lines.append(f"{title}: {passed} passed, {failed} failed, {sum(left_out.values())} left out")
    return "\n".join(lines), bad or int(not passed)
