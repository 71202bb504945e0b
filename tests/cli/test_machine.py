"""What `crishim check` looks at beside the backends, on machines that are folders."""

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from crishim.cli import check
from crishim.cli.machine import driver_findings, folder_findings, node_findings
from crishim.cli.main import main
from crishim.config import Config, ImagesConfig, NetworkConfig
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding
from crishim.testing import fakes

NETWORK = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}


def machine(root: Path) -> Config:
    """A machine with all that pods need, and the configuration of its node."""
    release = platform.release()
    files = {
        "proc/filesystems": "nodev\tproc\nnodev\toverlay\n",
        f"lib/modules/{release}/modules.dep": "",
        "etc/containers/policy.json": "{}",
        "etc/cni/net.d/10-pods.conflist": json.dumps(NETWORK),
        "opt/cni/bin/bridge": "",
        "sys/module/apparmor/parameters/enabled": "Y\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "opt/cni/bin/bridge").chmod(0o755)
    network = NetworkConfig(config=str(root / "etc/cni/net.d"), plugins=(str(root / "opt/cni/bin"),))
    return Config(network=network, state=str(root / "state"), cgroup_driver="systemd")


def lacking(config: Config, root: Path, *, store: bool = True) -> dict[str, Finding]:
    """What is needed, and is not there."""
    found = node_findings(config, store=store, root=root)
    return {finding.what: finding for finding in found if finding.needed and not finding.ok}


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' user counts as root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods need root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ["root"] == list(lacking(machine(tmp_path), tmp_path))


def test_a_whole_node(tmp_path: Path) -> None:
    """Nothing is missing, and the cgroups' version and driver, AppArmor and the network are reported."""
    config = machine(tmp_path)
    assert {} == lacking(config, tmp_path)
    by_name = {finding.what: finding.found for finding in node_findings(config, store=True, root=tmp_path)}
    assert by_name["cgroups"].endswith(", driver systemd")
    assert ("enabled", "pods") == (by_name["AppArmor"], by_name["pod network"])


def test_no_network(tmp_path: Path) -> None:
    """A folder without a valid configuration, and a configuration without its plugin, are missing what serving needs."""
    config = machine(tmp_path)
    (tmp_path / "opt/cni/bin/bridge").unlink()
    assert "network pods needs bridge, not found in" in lacking(config, tmp_path)["pod network"].without
    (tmp_path / "etc/cni/net.d/10-pods.conflist").write_text("{")
    assert "no network configuration in" in lacking(config, tmp_path)["pod network"].without


def test_a_module_that_a_mount_loads(tmp_path: Path) -> None:
    """Overlay need not be loaded yet: mount(2) loads a file system's module. A kernel without it is reported."""
    config = machine(tmp_path)
    (tmp_path / "proc/filesystems").write_text("nodev\tproc\n")
    assert ["overlayfs"] == list(lacking(config, tmp_path))
    assert {} == lacking(config, tmp_path, store=False)
    modules = tmp_path / "lib/modules" / platform.release() / "modules.dep"
    modules.write_text("kernel/fs/overlayfs/overlay.ko.xz:\n")
    assert {} == lacking(config, tmp_path)


def test_programs_that_the_node_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the plug-in, skopeo is needed for the store; the programs of user namespaces are reported if they are absent."""
    config = machine(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ["skopeo"] == list(lacking(config, tmp_path))
    assert {} == lacking(config, tmp_path, store=False)
    absent = [finding.what for finding in node_findings(config, store=True, root=tmp_path) if not finding.ok]
    assert ["unshare", "nsenter", "skopeo"] == absent


def test_files_that_pulls_need(tmp_path: Path) -> None:
    """Without a signature policy nothing is pulled; what the configuration names must be there."""
    config = machine(tmp_path)
    (tmp_path / "etc/containers/policy.json").unlink()
    assert ["/etc/containers/policy.json"] == list(lacking(config, tmp_path))
    named = attrs.evolve(config, images=ImagesConfig(policy="/own.json", authfile="/auth.json"))
    assert ["images.policy /own.json", "images.authfile /auth.json"] == list(lacking(named, tmp_path))
    assert {} == lacking(named, tmp_path, store=False)


@pytest.mark.parametrize(
    ("file", "text", "ok"),
    [
        ("config.yaml", "cgroupDriver: systemd\n", [True]),
        ("config.yaml", 'cgroupDriver: "cgroupfs"\n', [False]),
        ("config.yaml", '{\n  "cgroupDriver": "cgroupfs"\n}', [False]),
        ("config.yaml", "kind: x\n", []),
        ("kubeadm-flags.env", 'KUBELET_KUBEADM_ARGS="--v=2 --cgroup-driver=cgroupfs"\n', [False]),
        ("none", "", []),
    ],
)
def test_the_kubelets_driver(tmp_path: Path, file: str, text: str, ok: list[bool]) -> None:
    """A kubelet with another cgroup driver is reported with the file that configures it."""
    (tmp_path / file).write_text(text)
    found = list(driver_findings("systemd", tmp_path))
    assert ok == [finding.ok for finding in found]
    assert all(str(tmp_path / file) in finding.without for finding in found)


def test_folders_below_what_cannot_be_read(tmp_path: Path) -> None:
    """For a folder that does not exist its nearest parent is checked, and each folder once."""
    config = Config(state=f"{tmp_path}/a/b", runtime_state=f"{tmp_path}/c", listen=f"{tmp_path}/c/crishim.sock")
    assert [f"{tmp_path}/a/b", f"{tmp_path}/c"] == [finding.what for finding in folder_findings(config)]
    assert {f"{tmp_path} is writable"} == {finding.found for finding in folder_findings(config)}


def test_the_check_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`crishim check` fails for want of a network where a handler's backend needs the node, and only there."""
    file = tmp_path / "crishim.toml"
    file.write_text(
        f'state = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\nlisten = "{tmp_path}/run/sock"\n'
        f'[handlers]\n"" = "mine"\n[network]\nconfig = "{tmp_path}/none"\n'
    )
    monkeypatch.setattr(check, "installed", lambda: ())
    for needs_node, code in ((True, 1), (False, 0)):
        plugin = Plugin(build=fakes.plugin.build, needs_node=needs_node)
        monkeypatch.setattr(check, "load", lambda _, plugin=plugin: plugin)
        done = CliRunner().invoke(main, ["check", "--config", str(file)])
        reported = f"no network configuration in {tmp_path}/none" in done.output
        assert (code, needs_node) == (done.exit_code, reported), done.output
        section = done.output.partition("backend mine\n")[2].strip()
        assert [needs_node, not needs_node] == ["pod network: see above" in section, section == "ok      needs nothing"]


def test_the_node_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many plug-ins need the node, `crishim check` makes its findings once with the image store and once without."""
    file = tmp_path / "crishim.toml"
    file.write_text(
        f'state = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\nlisten = "{tmp_path}/run/sock"\n'
        '[handlers]\n"" = "one"\nx = "two"\ny = "own"\n'
    )
    looks: list[bool] = []

    def look(config: Config, *, store: bool) -> Iterator[Finding]:
        looks.append(store)
        return node_findings(config, store=store)

    own = Plugin(build=fakes.plugin.build, images=lambda _: fakes.FakeImages(), needs_node=True)
    plugin = Plugin(build=fakes.plugin.build, needs_node=True)
    monkeypatch.setattr(check, "node_findings", look)
    monkeypatch.setattr(check, "installed", lambda: ("one", "own", "three", "two"))
    monkeypatch.setattr(check, "load", lambda name: own if name == "own" else plugin)
    done = CliRunner().invoke(main, ["check", "--config", str(file)])
    assert 4 == done.output.count("\nbackend "), done.output
    assert [False, True] == sorted(looks)


def test_a_plug_in_that_no_handler_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the node has for it is shown, and what is missing there does not make the check fail."""
    file = tmp_path / "crishim.toml"
    file.write_text(
        f'state = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\nlisten = "{tmp_path}/run/sock"\n'
        f'[handlers]\n"" = "used"\n[network]\nconfig = "{tmp_path}/none"\n'
    )
    monkeypatch.setattr(check, "installed", lambda: ("mine",))
    monkeypatch.setattr(check, "load", lambda name: Plugin(build=fakes.plugin.build, needs_node=name == "mine"))
    done = CliRunner().invoke(main, ["check", "--config", str(file)])
    assert 0 == done.exit_code
    assert f"no network configuration in {tmp_path}/none" in done.output.partition("\nnode (no handler needs it)\n")[2]
    words = done.output.partition("backend mine (no handler uses it)\n")[2].split()
    assert ["absent", "node", "lacks"] == words[:3]
    assert ["pod", "network:", "see", "above"] == words[-4:]
