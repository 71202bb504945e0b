"""What the exam of a backend has found, as text, as JUnit's XML, and as a badge."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import attrs

from crishim.testing.conformance.examination import Examination
from crishim.testing.conformance.examine import Check, Grade, Restart, name_of, sentence_of

PROBE: Final = "probe_identifies_the_backend"
"""The check without which no other can pass."""

_GREEN: Final = "#2e7d32"
_RED: Final = "#c62828"


@attrs.frozen(kw_only=True)
class Examined:
    """What became of one check: `grade` is None if it failed. `text` is the reason, or the account of the failure.

    `seconds` is how long the check took.
    """

    name: str
    sentence: str
    grade: Grade | None
    text: str = ""
    seconds: float = 0.0


def find(exam: Examination, checks: Iterable[Check | Restart], seen: Callable[[Examined], None]) -> list[Examined]:
    """Run checks one after the other, and report each to `seen` at once. What a check raises is a finding.

    PROBE is the first; where it fails no other is run.
    """
    findings: list[Examined] = []
    for check in sorted(checks, key=lambda each: name_of(each) != PROBE):
        if findings and findings[0].name == PROBE and findings[0].grade is None:
            return findings  # all others would fail in the same way
        name, sentence, begun = name_of(check), sentence_of(check), time.monotonic()
        try:
            result = exam.grade(check)
        except Exception as error:  # noqa: BLE001 - whatever a backend raises is what was found
            text = "\n".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())))
            finding = Examined(name=name, sentence=sentence, grade=None, text=text)
        else:
            finding = Examined(name=name, sentence=sentence, grade=result.grade, text=result.reason)
        finding = attrs.evolve(finding, seconds=time.monotonic() - begun)
        seen(finding)
        findings.append(finding)
    return findings


def counts(findings: Sequence[Examined]) -> str:
    """How many checks passed, failed, and were not run, in one line."""
    kinds = [finding.grade.value if finding.grade is not None else "failed" for finding in findings]
    order = (Grade.PASSED.value, "failed", Grade.NOT_CLAIMED.value, Grade.LEFT_OUT.value)
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in order if kind in kinds)


def junit(plugin: str, findings: Sequence[Examined]) -> str:
    """The findings as a JUnit report; what was not run is a skipped test, with the reason."""
    suite = ET.Element("testsuite", name=f"crishim exam {plugin}", tests=str(len(findings)))
    suite.set("failures", str(sum(finding.grade is None for finding in findings)))
    suite.set("skipped", str(sum(finding.grade in {Grade.NOT_CLAIMED, Grade.LEFT_OUT} for finding in findings)))
    for finding in findings:
        case = ET.SubElement(suite, "testcase", classname=plugin, name=finding.name, time=f"{finding.seconds:.3f}")
        if finding.grade is None:
            ET.SubElement(case, "failure", message=finding.sentence).text = _printable(finding.text)
        elif finding.grade is not Grade.PASSED:
            ET.SubElement(case, "skipped", message=f"{finding.grade}: {finding.text}")
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def failed_in(report: str) -> frozenset[str]:
    """The names of the checks that failed, by a report of `junit`. Raises `ValueError` if the text is none."""
    try:
        cases = ET.fromstring(report).iter("testcase")  # noqa: S314 - the author's own file
    except ET.ParseError as error:
        raise ValueError(f"not a JUnit report: {error}") from error
    return frozenset(case.get("name", "") for case in cases if case.find("failure") is not None)


def badge(findings: Sequence[Examined]) -> str:
    """A badge for a README, as SVG: how many checks passed, and whether any failed."""
    failed = sum(finding.grade is None for finding in findings)
    passed = sum(finding.grade is Grade.PASSED for finding in findings)
    right, colour = (f"{failed} failed", _RED) if failed else (f"{passed} passed", _GREEN)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="190" height="20" role="img" aria-label="crishim exam: {escape(right)}">
<rect width="100" height="20" fill="#555"/><rect x="100" width="90" height="20" fill="{colour}"/>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="50" y="14">crishim exam</text><text x="145" y="14">{escape(right)}</text>
</g></svg>
"""


def _printable(text: str) -> str:
    """A text without the characters that XML does not have."""
    return "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)
