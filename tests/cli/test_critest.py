"""`crishim critest`."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from crishim.cli.main import main
from crishim.testing.suite import node


def critest(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["critest", *arguments])


@pytest.mark.node
def test_specs_run_against_a_plug_in(tmp_path: Path) -> None:
    """Critest runs over the plug-in with the options of the author's file; what the focus leaves out does not count."""
    if lacking := node.missing():
        pytest.skip(f"the suite needs {'; '.join(lacking)}")
    options = tmp_path / "options.toml"
    options.write_text('cgroup_driver = "cgroupfs"\n[backends.tested]\nruntime = "crun"\n')
    done = critest("runc", "--options", str(options), "--ginkgo.focus=version info")
    assert (0, "1 passed, 0 failed") == (done.exit_code, done.output.partition("runc: ")[2][:18]), done.output


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without critest the command says how to get it, and exits with 2."""
    monkeypatch.setenv("CRITEST", "/no/such/critest")
    done = critest("process")
    assert (2, True) == (done.exit_code, "critest: on PATH or named by $CRITEST" in done.output), done.output


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    """A file of what is known that has another table is an error by name, before anything is started."""
    known = tmp_path / "known.toml"
    known.write_text('[fails]\n"a" = "b"\n')
    done = critest("process", "--known", str(known))
    assert (2, "crishim: fails: the tables are failures and skips\n") == (done.exit_code, done.output)


def test_a_plug_in_that_does_not_exist() -> None:
    """An unknown plug-in is an error that names those that there are."""
    done = critest("nonsense")
    assert (2, True) == (done.exit_code, "backend 'nonsense': is not installed" in done.output)
