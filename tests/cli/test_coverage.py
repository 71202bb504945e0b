import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from crishim.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ("coverage", *words))


def test_a_table_is_printed() -> None:
    """Each field has its verdict and reason, below its message; `--only` leaves out the others, and counts them too."""
    whole, refused = run("process"), run("process", "--only", "refused")
    assert (0, 0) == (whole.exit_code, refused.exit_code)
    assert whole.output.splitlines()[0] == refused.output.splitlines()[0]
    assert "ContainerConfig\n  supported   metadata.name" in whole.output
    line = next(line for line in refused.output.splitlines() if " linux.security_context.privileged " in line)
    assert ["refused", "linux.security_context.privileged", "InvalidArgument"] == line.split()[:3]
    assert "supported " not in refused.output.split("\n", 1)[1]


@pytest.mark.parametrize("name", ["none", "pathlib:Path", "crishim.testing.fakes:none"])
def test_an_invalid_backend_is_reported(name: str) -> None:
    """A backend that is missing, or is none, ends the command with its name."""
    done = run(name)
    assert (1, True) == (done.exit_code, name.partition(":")[0] in done.output), done.output


def test_an_engine_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an engine does not answer, what its plug-in says counts, and why is on stderr."""
    monkeypatch.setenv("PATH", "/nowhere")
    done = run("kata", "--only", "refused")
    assert 0 == done.exit_code, done.output
    assert "containerd-shim-kata-v2" in done.stderr
    assert "linux.security_context.seccomp" in done.stdout


def test_the_page_is_what_is_printed() -> None:
    """docs/coverage.md is what `make coverage-page` prints, on a machine with no engine at all too."""
    printed = subprocess.run(
        [sys.executable, "-m", "crishim", "coverage", "--markdown", "process", "runc", "docker", "shim", "kata"],
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (printed.returncode, printed.stderr)
    assert printed.stdout == PAGE.read_text()
