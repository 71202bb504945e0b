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


def optioned(tmp_path: Path, text: str) -> str:
    file = tmp_path / "options.toml"
    file.write_text(text)
    return str(file)


PLUGIN = """
from crishim import Feature, NetnsSource, Plugin
from crishim.testing import FakeBackend

def build(context):
    return FakeBackend(netns=NetnsSource.NONE, supported=frozenset(Feature(name) for name in context.options["features"]))

plugin = Plugin(build=build, ignores={})
"""


def test_options_of_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend is built with the options of the drop-in, and the table is that of what it then supports."""
    (tmp_path / "optioned_backend.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    for features, refused in (("", True), ('"linux.sysctls"', False)):
        options = optioned(tmp_path, f"[backends.tested]\nfeatures = [{features}]\n")
        done = run("optioned_backend:plugin", "--only", "refused", "--options", options)
        assert (0, refused) == (done.exit_code, "  linux.sysctls " in done.output), done.output


def test_options_that_are_refused(tmp_path: Path) -> None:
    """A drop-in without the table, an option that the backend refuses, and more than one backend are errors by name."""
    other = optioned(tmp_path, '[backends.runc]\nruntime = "crun"\n')
    assert f"{other}: has no options in [backends.tested]" in run("runc", "--options", other).output
    unknown = optioned(tmp_path, "[backends.tested]\nspeed = 1\n")
    assert "options.speed: is not known" in run("runc", "--options", unknown).output
    done = run("runc", "process", "--options", unknown)
    assert (2, True) == (done.exit_code, "--options needs a single BACKEND" in done.output)


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
