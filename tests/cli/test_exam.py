"""`crishim exam`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from crishim.cli.main import main
from crishim.linux.processes import Identity, all_processes, runs
from crishim.testing.conformance.candidate import MARK

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

def optional(context):
    return FakeBackend(netns=NetnsSource[context.options["netns"]])

exam = {"programs": FakePrograms(), "survives_restart": False}
plugin = Plugin(build=lambda _: AlwaysZero(netns=NetnsSource.NONE), exam=exam)
library = Plugin(build=lambda _: FakeBackend(netns=NetnsSource.LIBRARY), exam=exam)
sick = Plugin(build=lambda _: 1 / 0, exam=exam)
optioned = Plugin(build=optional, exam={**exam, "options": {"netns": "LIBRARY"}})
unknown = Plugin(build=lambda _: FakeBackend(), exam={"survives": True})
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `broken_backend` that can be imported."""
    (tmp_path / "broken_backend.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("broken_backend", None)


@pytest.mark.usefixtures("broken")
def test_options_of_the_backend(tmp_path: Path) -> None:
    """The options of the drop-in replace those of the plug-in's exam."""
    (tmp_path / "options.toml").write_text('[backends.tested]\nnetns = "NONE"\n')
    command = ["exam", "broken_backend:optioned", "--only", "lifecycle"]
    assert 1 == CliRunner().invoke(main, command).exit_code
    done = CliRunner().invoke(main, [*command, "--options", str(tmp_path / "options.toml")])
    assert 0 == done.exit_code, done.output


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
def test_a_backend_that_cannot_be_probed() -> None:
    """Where the probe fails, the first check, no other one is run: all would fail in the same way."""
    done = CliRunner().invoke(main, ["exam", "broken_backend:sick"])
    assert (1, "broken_backend:sick: 1 failed") == (done.exit_code, done.output.splitlines()[-1]), done.output


@pytest.mark.usefixtures("broken")
def test_bad_names() -> None:
    """An unknown attribute of the plug-in is an error, and a text that no check's name has passes nothing."""
    unknown = CliRunner().invoke(main, ["exam", "broken_backend:unknown"])
    nothing = CliRunner().invoke(main, ["exam", "broken_backend:plugin", "--only", "nonsense"])
    assert (2, True) == (unknown.exit_code, "survives is not an attribute" in unknown.output), unknown.output
    assert (1, True) == (nothing.exit_code, "no check has such a name" in nothing.output), nothing.output


@pytest.mark.usefixtures("broken")
def test_only_what_failed(tmp_path: Path) -> None:
    """With the report of an earlier exam only the checks that failed there run; `--only` may be repeated."""
    report = tmp_path / "report.xml"
    arguments = ["exam", "broken_backend:plugin", "--only", "exit_codes", "--only", "probe", "--junit", str(report)]
    first = CliRunner().invoke(main, arguments)
    assert (1, "broken_backend:plugin: 1 passed, 1 failed") == (first.exit_code, first.output.splitlines()[-1])
    again = CliRunner().invoke(main, ["exam", "crishim.testing.fakes:plugin", "--failed", str(report)])
    assert (0, "passed      exit_codes_are_reported") == (again.exit_code, again.output.splitlines()[0])
    fine = CliRunner().invoke(main, ["exam", "broken_backend:plugin", "--only", "probe", "--junit", str(report)])
    none = CliRunner().invoke(main, ["exam", "broken_backend:plugin", "--failed", str(report)])
    assert (0, 0, True) == (fine.exit_code, none.exit_code, "nothing has failed in this report" in none.output)
    report.write_text("no report")
    bad = CliRunner().invoke(main, ["exam", "broken_backend:plugin", "--failed", str(report)])
    assert (2, True) == (bad.exit_code, "not a JUnit report" in bad.output)


SLEEPY = """
import crishim.backends.process
from crishim.interfaces.plugin import Plugin
from crishim.testing import hanging

real = crishim.backends.process.plugin
plugin = Plugin(build=lambda context: hanging(real.build(context), "exec"), exam=real.exam)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_exam_removes_what_it_made(tmp_path: Path, number: int) -> None:
    """A signal ends the exam in the middle of an exec; its container and its folder are gone."""
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    program = [sys.executable, "-m", "crishim", "exam", "sleepy:plugin", "--only", "exec_runs_beside"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as exam:
        until = time.monotonic() + 30
        while not (containers := containers_below(exam.pid)):
            assert time.monotonic() < until, "no container was started"
            time.sleep(0.02)
        exam.send_signal(number)
        output, _ = exam.communicate(timeout=60)
    assert (1, "\nAborted!\n", []) == (exam.returncode, output, [*temporary.glob("exam*")])
    assert [] == [container for container in containers if runs(container)]


def containers_below(pid: int) -> list[Identity]:
    """The descendants of a process that have the environment of one of the exam's containers."""
    found, processes = [], all_processes()
    for process in processes.values():
        ancestor = process
        while ancestor.pid != pid and ancestor.parent in processes:
            ancestor = processes[ancestor.parent]
        with contextlib.suppress(OSError):
            if ancestor.pid == pid and f"{MARK}=".encode() in Path(f"/proc/{process.pid}/environ").read_bytes():
                found.append(process.identity)
    return found


def test_it_needs_no_pytest() -> None:
    """The command, and the fakes, are there without pytest, which only an exam in tests needs."""
    program = (
        "import sys; sys.modules['pytest'] = None; import crishim.testing, crishim.cli.exam; crishim.testing.FakeBackend()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
