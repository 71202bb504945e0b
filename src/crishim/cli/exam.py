"""`crishim exam`: examines a backend, and reports what it fulfils of its contract."""

import sys
from pathlib import Path
from typing import IO, Final

import click
from rich.console import Console
from rich.text import Text

from crishim.cli.options import drop_in_option, exit_on_error, sigterm_as_sigint, tested_options
from crishim.plugins import load
from crishim.testing.conformance.checks import CHECKS
from crishim.testing.conformance.examination import Examination, attributes_of
from crishim.testing.conformance.examine import Grade, name_of
from crishim.testing.conformance.report import Examined, badge, counts, failed_in, find, junit

_STYLES: Final = {Grade.PASSED: "green", Grade.NOT_CLAIMED: "dim", Grade.LEFT_OUT: "yellow", None: "red"}

_SLOW: Final = 5.0
"""Seconds from which on the time of a check is printed."""


@click.command(name="exam")
@click.argument("plugin")
@drop_in_option
@click.option("--only", multiple=True, help="Only the checks with this text in their names; may be repeated.")
@click.option("--failed", "failed_file", type=click.File(encoding="utf-8"), help="Only those that failed by this JUnit report.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for one check; 180 without.")
@click.option("--junit", "junit_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit report here.")
@click.option("--badge", "badge_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a badge (SVG) here.")
def command(
    plugin: str,
    drop_in: IO[str] | None,
    only: tuple[str, ...],
    failed_file: IO[str] | None,
    timeout: float | None,
    junit_file: Path | None,
    badge_file: Path | None,
) -> None:
    """Examine the backend of PLUGIN: an installed one, or package.module:attribute.

    Each check is a sentence of the contract. A check of a capability or feature that the backend does not claim is not run, and
    one that needs something that is not here is left out; both are printed with the reason. The exit status is 0 if at least
    one check passed and none failed, else 1. SIGINT and SIGTERM end the exam, after the check under way has removed what it
    made. The file of --options is a drop-in of crishim's configuration, as that of `crishim critest`.
    """
    console = Console(highlight=False, soft_wrap=True)
    with exit_on_error(2, TypeError, ValueError):
        attributes = attributes_of(load(plugin))
        if timeout is not None:
            attributes["limit"] = timeout
        attributes["options"] = {**attributes.get("options", {}), **tested_options(drop_in)}
        exam: Examination = type("Exam", (Examination,), attributes)()
        failed = None if failed_file is None else failed_in(failed_file.read())
    checks = [check for check in CHECKS if not only or any(text in name_of(check) for text in only)]
    if failed is not None:
        checks = [check for check in checks if name_of(check) in failed]
    with sigterm_as_sigint():
        findings = find(exam, checks, lambda finding: _print(console, finding))
    nothing = "no check has such a name" if failed is None else "nothing has failed in this report"
    console.print(f"{plugin}: {counts(findings) or nothing}")
    for file, text in ((junit_file, junit(plugin, findings)), (badge_file, badge(findings))):
        if file is not None:
            file.write_text(text, encoding="utf-8")
    grades = {finding.grade for finding in findings}
    nothing_to_do = failed is not None and not failed
    sys.exit(0 if nothing_to_do or (Grade.PASSED in grades and None not in grades) else 1)


def _print(console: Console, finding: Examined) -> None:
    grade = "FAILED" if finding.grade is None else finding.grade.value
    line = Text.assemble((grade.ljust(12), _STYLES[finding.grade]), finding.name)
    if finding.grade in {Grade.NOT_CLAIMED, Grade.LEFT_OUT}:
        line.append(f"  ({finding.text})", style="dim")
    elif finding.seconds >= _SLOW:
        line.append(f"  {finding.seconds:.0f} s", style="dim")
    console.print(line)
    if finding.grade is None:
        console.print(Text("\n".join(f"    {part}" for part in finding.text.splitlines())))
