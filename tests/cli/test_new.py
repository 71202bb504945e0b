"""`crishim new`: projects that pass the exam as they are written."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from crishim.cli.main import main
from tests.backends.runc.world import needs

NEEDS = {"bundle": [pytest.mark.node, needs("busybox", "unshare", "nsenter")], "sandbox": [], "remote": []}


@pytest.fixture
def project(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["new", "my-engine", "--kind", kind])
    assert 0 == done.exit_code, done.output
    return tmp_path / "my-engine"


def run(project: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a Python module in the project."""
    words = [sys.executable, "-m", *command]
    return subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=marks) for kind, marks in NEEDS.items()])
def test_it_passes_the_exam(project: Path, kind: str) -> None:
    """Every check that is run passes, under pytest as well."""
    if kind == "remote" and importlib.util.find_spec("aiohttp") is None:
        pytest.skip("needs aiohttp: pip install aiohttp")
    if kind == "remote":  # its exam needs the engine, which its test starts
        done = run(project, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "tests")
        assert (0, False) == (done.returncode, "failed" in done.stdout), done.stdout[-5000:]
    else:
        done = run(project, "crishim", "exam", "my_engine_backend:plugin")
        assert (0, True) == (done.returncode, "my_engine_backend:plugin: " in done.stdout), done.stdout[-5000:]


@pytest.mark.parametrize("kind", NEEDS)
def test_it_is_typed(project: Path, kind: str) -> None:
    """Mypy finds nothing in it, as strict as it can be."""
    if kind == "remote" and importlib.util.find_spec("aiohttp") is None:
        pytest.skip("needs aiohttp: pip install aiohttp")
    done = run(project, "mypy", "--strict", "--no-incremental", ".")
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("kind", NEEDS)
def test_pyright_reads_it(project: Path, kind: str) -> None:
    """Pyright in its basic mode finds no error in it: `crishim` is typed for either checker."""
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("needs pyright with a node of its own: pip install basedpyright")
    if kind == "remote" and importlib.util.find_spec("aiohttp") is None:
        pytest.skip("needs aiohttp: pip install aiohttp")
    (project / "pyrightconfig.json").write_text('{"typeCheckingMode": "basic"}')
    done = run(project, "basedpyright", "--pythonpath", sys.executable, "--level", "error", ".")
    assert (0, True) == (done.returncode, "0 errors" in done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["sandbox"])
def test_nothing_is_overwritten(project: Path) -> None:
    """A second project of the name is refused, and the first one stays as it is."""
    file = project / "my_engine_backend.py"
    file.write_text("mine")
    done = CliRunner().invoke(main, ["new", "my-engine", "--kind", "sandbox"])
    assert (2, "mine") == (done.exit_code, file.read_text())


@pytest.mark.parametrize("name", ["My", "a_b", "-a", "a--b", "../a", ""])
def test_a_bad_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no part of a package's name is refused, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["new", "--kind", "sandbox", "--", name])
    assert (2, []) == (done.exit_code, list(tmp_path.iterdir()))
