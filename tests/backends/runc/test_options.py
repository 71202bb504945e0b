"""The options of the runc backend in crishim.toml, and its requirements of a machine."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.backends.runc.pods import build, check, findings
from crishim.errors import InvalidArgument
from crishim.interfaces.backend import BackendContext
from crishim.model.runtime import CgroupDriver
from crishim.model.values import FrozenDict
from crishim.system import SystemClock


def context(folder: Path, options: dict[str, Any]) -> BackendContext:
    """A context with these options."""
    return BackendContext(state=folder, runtime_state=folder, options=FrozenDict(options), clock=SystemClock())


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"unknown": 1}, "options.unknown"),
        ({"ulimits": [1]}, "options.ulimits"),
        ({"ulimits": {"nofiles": 1}}, "options.ulimits.nofiles"),
        ({"ulimits": {"nofile": [2, 1]}}, "options.ulimits.nofile"),
        ({"ulimits": {"nofile": "many"}}, "options.ulimits.nofile"),
        ({"ulimits": {"nofile": [1, 2, 3]}}, "options.ulimits.nofile"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], field: str) -> None:
    """They are refused by their name."""
    with pytest.raises(InvalidArgument) as caught:
        build(context(tmp_path, options))
    assert field == caught.value.field


@pytest.mark.parametrize("driver", CgroupDriver)
def test_one_setting_rules_the_cgroups(tmp_path: Path, driver: CgroupDriver) -> None:
    """Runtime, monitor and the bundle's path follow the cgroup driver that the kubelet gets."""
    backend: Any = build(attrs.evolve(context(tmp_path, {}), cgroup_driver=driver))
    systemd = driver is CgroupDriver.SYSTEMD
    assert (systemd, systemd) == (backend._host.systemd_cgroup, backend._runtime._command.systemd_cgroup)


def test_default_limits(tmp_path: Path) -> None:
    """A number is both limits, a pair is soft and hard."""
    backend: Any = build(context(tmp_path, {"ulimits": {"nofile": [16, 64], "core": 0}}))
    assert (("RLIMIT_NOFILE", 16, 64), ("RLIMIT_CORE", 0, 0)) == backend._host.rlimits


POWERLESS = """
import json, logging, sys
from pathlib import Path
from crishim.backends.runc.pods import build, check
from tests.backends.runc.test_options import context
logging.basicConfig(format="%(message)s")
options = json.loads(sys.argv[1])
found = [[finding.what, finding.ok, finding.needed] for finding in check(options) if "ulimits" in finding.what]
print(json.dumps([build(context(Path(sys.argv[2]), options))._host.rlimits, found]))
"""


@pytest.mark.parametrize(
    ("limits", "given", "found"),
    [
        ({"nofile": [1024, 65536], "core": 0}, [["RLIMIT_NOFILE", 1024, 4096], ["RLIMIT_CORE", 0, 0]], 1),
        ({"nofile": 65536}, [["RLIMIT_NOFILE", 4096, 4096]], 1),
        ({"nofile": [8, 16]}, [["RLIMIT_NOFILE", 8, 16]], 0),
    ],
)
def test_limits_that_cannot_be_given(tmp_path: Path, limits: dict[str, Any], given: list[Any], found: int) -> None:
    """Without CAP_SYS_RESOURCE a limit above the process's own is its own, logged once and checked (setrlimit(2))."""
    without = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*without, sys.executable, "-c", POWERLESS, json.dumps({"ulimits": limits}), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)),
    )
    assert [given, [["ulimits.nofile", False, False]] * found] == json.loads(done.stdout)
    assert found == done.stderr.count("ulimits.nofile is lowered to 4096"), done.stderr


def test_a_machine_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named with what then does not work; what most pods ask for is needed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    by_name = {finding.what: finding for finding in findings(tmp_path)}
    missing = {what for what, finding in by_name.items() if finding.needed and not finding.ok}
    assert {"runc", "conmon", "catatonit"} == missing
    assert {"criu", "/usr/share/containers/seccomp.json"} == {what for what, finding in by_name.items() if not finding.needed}
    assert [finding.what for finding in check({})] == list(by_name)


def test_the_runtime_of_the_options_is_looked_for() -> None:
    """A backend whose option names another runtime needs that one, and not runc."""
    findings_of = {finding.what: finding for finding in check({"runtime": "no-such-runtime"})}
    assert "runc" not in findings_of
    assert (False, True) == (findings_of["no-such-runtime"].ok, findings_of["no-such-runtime"].needed)
