"""`crishim config init`, on machines that are a PATH."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from crishim.cli.config import machine_text
from crishim.cli.main import main
from crishim.config import parse
from crishim.pods.host import cgroup_driver
from tests.linux.test_programs import make_program


@pytest.mark.parametrize(
    ("programs", "handlers"),
    [
        (["runc", "crun", "runsc"], {"": "runc", "crun": "crun", "runsc": "runsc"}),
        (["crun"], {"": "crun"}),
        ([], {"": "runc"}),
    ],
)
def test_the_runtimes_that_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: list[str], handlers: dict[str, str]
) -> None:
    """Each runtime on PATH has a handler, the first is the default; the cgroup driver is this machine's, and written down."""
    for name in programs:
        make_program(tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    config = parse([("made", machine_text().encode())])
    assert handlers == dict(config.handlers)
    assert {"runc"} == {config.plugin_of(backend) for backend in config.backend_names}
    assert all(config.options_of(name) == {"runtime": name} for name in programs if name != "runc")
    assert cgroup_driver().name.lower() == config.cgroup_driver
    assert "/opt/cni/bin" == config.network.plugins[0]


def test_the_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`crishim config init` creates the file and lists what is missing; an existing file is not changed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "etc" / "crishim.toml"
    done = CliRunner().invoke(main, ["config", "init", "--config", str(file)])
    assert (0, machine_text()) == (done.exit_code, file.read_text())
    assert f"wrote {file}\n" in done.output
    assert "missing for backend runc: conmon: no container can be created; apt-get install conmon\n" in done.output
    file.write_text("# mine\n")
    done = CliRunner().invoke(main, ["config", "init", "--config", str(file)])
    assert (1, "# mine\n") == (done.exit_code, file.read_text())
    assert CliRunner().invoke(main, ["config", "init", "--config", "-"]).output.startswith(machine_text())


def test_plain_processes_of_root_are_reported(tmp_path: Path) -> None:
    """`crishim serve` warns, and `crishim check` fails, if pods are plain processes of root; for other users both succeed."""
    file = tmp_path / "crishim.toml"
    file.write_text(f'listen = "{tmp_path}/s"\nstate = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\n')
    done = CliRunner().invoke(main, ["check", "--config", str(file)])
    assert (int(os.geteuid() == 0), True) == (done.exit_code, "isolation" in done.output)
    with subprocess.Popen(
        [sys.executable, "-m", "crishim", "serve", "--config", str(file)], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            logged = "".join([next(lines)])
        finally:
            server.terminate()
            assert server.stderr is not None
            logged += server.stderr.read()
    assert ("PODS ARE PLAIN PROCESSES OF ROOT" in logged) == (os.geteuid() == 0), logged
