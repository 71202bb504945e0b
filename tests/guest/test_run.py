"""What the guest's runner makes of reports, and what it takes into the guest. These run anywhere."""

from pathlib import Path

import pytest

from tests.guest.build import Unobtainable, dependencies, fetch, note, recipe, run, stale
from tests.guest.run import PARTS, read_report
from tests.suite.baseline import comparison

PYTEST = """<testsuites><testsuite>
<testcase classname="tests.a" name="one"/>
<testcase classname="tests.a" name="two"><failure message="no"/></testcase>
<testcase classname="tests.a" name="three"><skipped message="needs root"/></testcase>
<testcase classname="tests.a" name="four"><error message="no fixture"/></testcase>
</testsuite></testsuites>"""
GINKGO = """<testsuites><testsuite>
<testcase name="[BeforeSuite]" status="passed"/>
<testcase name="[It] one" status="passed"/>
<testcase name="[It] two" status="timedout"><failure/></testcase>
<testcase name="[It] three" status="skipped"><skipped message="no"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (PYTEST, {"tests.a.one": "passed", "tests.a.two": "failed", "tests.a.three": "left out", "tests.a.four": "failed"}),
        (GINKGO, {"[It] one": "passed", "[It] two": "failed", "[It] three": "left out"}),
    ],
)
def test_reports_of_both_kinds(xml: str, expected: dict[str, str]) -> None:
    """Of pytest's and of Ginkgo's reports each test has one outcome; an error is a failure."""
    assert expected == read_report(xml)


def test_what_the_guest_needs_of_pypi() -> None:
    """The dependencies of the extra `test` are resolved through the project's own extras, which are not among them."""
    needed = dependencies()
    assert {"attrs", "grpcio", "h11", "click", "pytest", "hypothesis"} <= {name.split(">")[0] for name in needed}
    assert [] == [name for name in needed if name.startswith("crishim")]


def test_what_is_made_anew(tmp_path: Path) -> None:
    """A part of the guest is made anew when it is not there, when its recipe is another, or when making it was broken off."""
    made = tmp_path / "linux"
    found = [stale(made, recipe("a"))]
    made.touch()
    found.append(stale(made, recipe("a")))
    note(made, recipe("a"))
    found += [stale(made, recipe("a")), stale(made, recipe("a", "b"))]
    assert [True, True, False, True] == found


def test_parts_have_names_of_their_own() -> None:
    """A part can be asked for by its name."""
    assert len(PARTS) == len({part.name for part in PARTS})


def test_what_cannot_be_downloaded_is_no_failure(tmp_path: Path) -> None:
    """A download that fails is told from a step that fails, by its command and the end of the log."""
    with pytest.raises(Unobtainable, match=r"(?s)sh -c echo no such mirror; exit 100 ended with 100;.*no such mirror"):
        fetch("sh", "-c", "echo no such mirror; exit 100", log=tmp_path / "log")
    with pytest.raises(SystemExit, match="false ended with 1"):
        run("false", log=tmp_path / "log")


def test_the_comparison_with_containerd() -> None:
    """Of the specs that pass with containerd, each passes or fails with us; others do not count."""
    theirs = """<testsuites><testsuite>
<testcase name="[It] one" status="passed"/>
<testcase name="[It] two" status="passed"/>
<testcase name="[It] three" status="failed"><failure/></testcase>
</testsuite></testsuites>"""
    ours = theirs.replace('two" status="passed"/>', 'two" status="skipped"><skipped message="no"/></testcase>')
    assert {"containerd.one": "passed", "containerd.two": "failed"} == read_report(comparison(theirs, ours))
