"""The report of the official suite, and an author's file of what is known."""

import pytest

from crishim.errors import InvalidArgument
from crishim.model.values import FrozenDict
from crishim.testing.suite.report import KnownSpecs, outcomes, read_known, report

XML = """<testsuites><testsuite>
<testcase name="[BeforeSuite]" status="passed"/>
<testcase name="[It] runs" status="passed"/>
<testcase name="[It] pulls by digest" status="failed"><failure message="x"/></testcase>
<testcase name="[It] hangs" status="timedout"><failure message="x"/></testcase>
<testcase name="[It] maps ids" status="skipped"><skipped message="skipped - no handler, sorry"/></testcase>
<testcase name="[It] measures" status="skipped"><skipped message="skipped"/></testcase>
</testsuite></testsuites>"""


def test_outcomes() -> None:
    """Each spec passed, failed in whatever way, or was left out; set-up is no spec."""
    expected = {
        "runs": "passed",
        "pulls by digest": "failed",
        "hangs": "failed",
        "maps ids": "left out",
        "measures": "left out",
    }
    assert {f"[It] {name}": how for name, how in expected.items()} == outcomes(XML)


def test_what_is_known_does_not_count() -> None:
    """A failure or skip counts unless it is known; a known failure that passes is reported, and does not count."""
    known = KnownSpecs(
        FrozenDict({"by digest": "no such digest", "runs": "it did not run once"}),
        FrozenDict({"no handler": "one mapping for all", "measures": "on their own"}),
    )
    text, bad = report(XML, "mine", known)
    assert [
        "passed, though known to fail: [It] runs (it did not run once)",
        "failed: [It] pulls by digest (known: no such digest)",
        "failed: [It] hangs",
        "left out: 1 on their own",
        "left out: 1 one mapping for all",
        "mine: 1 passed, 2 failed, 2 left out",
    ] == text.splitlines()
    assert 1 == bad
    assert 3 == report(XML, "mine", KnownSpecs())[1]  # the last one was not selected
    assert 1 == report("<testsuites/>", "mine", KnownSpecs())[1]


def test_an_authors_file() -> None:
    """The tables `failures` and `skips` of reasons by texts; what the author writes is added to what is known everywhere."""
    known = read_known('[failures]\n"by digest" = "no such digest"\n[skips]\n"no handler" = "one mapping for all"\n')
    assert KnownSpecs(FrozenDict({"by digest": "no such digest"}), FrozenDict({"no handler": "one mapping for all"})) == known
    assert ("no such digest", "one mapping for all", "") == (
        (KnownSpecs(skips=FrozenDict({"a": "b"})) | known).failure("pulls by digest"),
        known.skip("maps ids", "no handler, sorry"),
        known.skip("maps ids", "sorry, no handler"),
    )


@pytest.mark.parametrize("text", ["[", '[fails]\n"a" = "b"', '[skips]\n"a" = 1', '[skips]\n"a" = ""', 'skips = "a"'])
def test_bad_files_are_refused(text: str) -> None:
    """What is no TOML, another table, and a missing reason are errors."""
    with pytest.raises(InvalidArgument):
        read_known(text)
