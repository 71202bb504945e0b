"""`crishim exam`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from crishim.cli.main import main

BROKEN = """
from crishim.interfaces.backend import NetnsSource
from crishim.interfaces.plugin import Plugin
from crishim.model.process import Exit
from crishim.testing import FakeBackend
from crishim.testing.fake_programs import FakePrograms

class AlwaysZero(FakeBackend):
    async def wait_container(self, container_id):
        await super().wait_container(container_id)
        return Exit(code=0)

exam = {"programs": FakePrograms(), "survives_restart": False}
plugin = Plugin(build=lambda _: AlwaysZero(netns=NetnsSource.NONE), exam=exam)
library = Plugin(build=lambda _: FakeBackend(netns=NetnsSource.LIBRARY), exam=exam)
unknown = Plugin(build=lambda _: FakeBackend(), exam={"survives": True})
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `broken_backend` that can be imported."""
    (tmp_path / "broken_backend.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("broken_backend", None)


def test_a_backend_passes(tmp_path: Path) -> None:
    """Each check is a line, its reason beside it where it is not run; the report and the badge say the same."""
    report, badge = tmp_path / "report.xml", tmp_path / "badge.svg"
    arguments = ["exam", "crishim.testing.fakes:plugin", "--only", "restart", "--junit", str(report), "--badge", str(badge)]
    done = CliRunner().invoke(main, arguments)
    assert (0, True) == (done.exit_code, done.output.endswith("1 passed, 10 not claimed\n")), done.output
    assert "not claimed restart_loses_no_output  (survives_restart)" in done.output.splitlines()
    suite = ET.parse(report).getroot()
    assert ("11", "0", "10") == (suite.get("tests"), suite.get("failures"), suite.get("skipped"))
    assert "1 passed" in badge.read_text()


@pytest.mark.usefixtures("broken")
def test_a_failure_is_accounted_for(tmp_path: Path) -> None:
    """The contract's sentence and the calls are printed, are in the report, and the exit status is 1."""
    report, badge = tmp_path / "report.xml", tmp_path / "badge.svg"
    arguments = ["exam", "broken_backend:plugin", "--only", "exit_codes", "--junit", str(report), "--badge", str(badge)]
    done = CliRunner().invoke(main, arguments)
    assert (1, True) == (done.exit_code, done.output.endswith("1 failed\n")), done.output
    failure = ET.parse(report).getroot().find("testcase/failure")
    assert failure is not None
    for text in (done.output, failure.text or ""):
        assert "the contract: wait_container returns the process's own exit code." in text
        assert "returned Exit(code=0" in text
    assert "1 failed" in badge.read_text()


@pytest.mark.usefixtures("broken")
def test_nobody_makes_the_namespaces() -> None:
    """A backend that leaves the network to the library fails without `needs_node`: its pods would be on the node's."""
    done = CliRunner().invoke(main, ["exam", "broken_backend:library", "--only", "probe"])
    assert (1, True) == (done.exit_code, "NetnsSource.LIBRARY needs a plug-in with `needs_node`" in done.output), done.output


@pytest.mark.usefixtures("broken")
def test_bad_names() -> None:
    """An unknown attribute of the plug-in is an error, and a text that no check's name has passes nothing."""
    unknown = CliRunner().invoke(main, ["exam", "broken_backend:unknown"])
    nothing = CliRunner().invoke(main, ["exam", "broken_backend:plugin", "--only", "nonsense"])
    assert (2, True) == (unknown.exit_code, "survives is not an attribute" in unknown.output), unknown.output
    assert (1, True) == (nothing.exit_code, "no check has such a name" in nothing.output), nothing.output


def test_it_needs_no_pytest() -> None:
    """The command, and the fakes, are there without pytest, which only an exam in tests needs."""
    program = (
        "import sys; sys.modules['pytest'] = None; import crishim.testing, crishim.cli.exam; crishim.testing.FakeBackend()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
