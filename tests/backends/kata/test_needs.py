from pathlib import Path

import attrs
import pytest

from crishim.backends.kata import check
from crishim.backends.kata.leftovers import KataBinary
from crishim.backends.kata.needs import findings
from crishim.errors import FailedPrecondition
from crishim.linux.programs import find_program

CONFIGURATION = """
[hypervisor.qemu]
path = "/opt/kata/bin/qemu"
kernel = "/opt/kata/vmlinux"
image = ""
initrd = "/opt/kata/initrd"
virtio_fs_daemon = "/opt/kata/virtiofsd"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine's root with everything that kata needs."""
    for name in ("bin/qemu", "vmlinux", "initrd", "virtiofsd"):
        path = tmp_path / "opt/kata" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    configuration = tmp_path / "etc/kata-containers/configuration.toml"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(CONFIGURATION)
    (tmp_path / "dev").mkdir()
    for name in ("kvm", "vhost-vsock", "vhost-net", "log"):
        (tmp_path / "dev" / name).touch()
    return tmp_path


def wrong(root: Path, config_path: str = "") -> dict[str, bool]:
    """What is missing, and whether it is needed; programs of the machine that runs the tests left aside."""
    looked = findings(root, config_path=config_path)
    return {found.what: found.needed for found in looked if not found.ok and found.what[0] in "/ahgkv"}


def test_a_machine_with_everything(machine: Path) -> None:
    """Where all is there, all is found."""
    assert {} == wrong(machine)


@pytest.mark.parametrize(
    ("name", "what", "needed"),
    [
        ("dev/kvm", "/dev/kvm", False),
        ("dev/vhost-vsock", "/dev/vhost-vsock", True),
        ("dev/vhost-net", "/dev/vhost-net", False),
        ("dev/log", "a syslog at /dev/log", True),
        ("opt/kata/bin/qemu", "hypervisor of qemu", True),
        ("opt/kata/vmlinux", "guest kernel of qemu", True),
        ("opt/kata/initrd", "guest image of qemu", True),
        ("opt/kata/virtiofsd", "virtiofsd of qemu", True),
        ("etc/kata-containers/configuration.toml", "kata's configuration", False),
    ],
)
def test_what_is_missing_is_named(machine: Path, name: str, what: str, needed: bool) -> None:
    """Each thing that is missing is named, with what then does not work and what brings it."""
    (machine / name).unlink()
    assert {what: needed} == wrong(machine)
    (found,) = [found for found in findings(machine) if found.what == what]
    assert found.without
    assert found.remedy


def test_a_configuration_that_cannot_be_read(machine: Path) -> None:
    """A configuration that is no TOML is an obstacle."""
    (machine / "etc/kata-containers/configuration.toml").write_text("[hypervisor")
    assert {"kata's configuration": True} == wrong(machine)


def test_the_configured_configuration_is_looked_at(machine: Path) -> None:
    """With a config_path that file counts, and not the one that kata would find; where it is missing that is an obstacle."""
    other = machine / "opt/kata/other.toml"
    other.write_text(CONFIGURATION.replace("/opt/kata/vmlinux", "/opt/kata/none"))
    assert {} == wrong(machine)
    assert {"guest kernel of qemu": True} == wrong(machine, "/opt/kata/other.toml")
    other.unlink()
    assert {"kata's configuration": True} == wrong(machine, "/opt/kata/other.toml")


@pytest.mark.parametrize(("hypervisor", "needed"), [("qemu", True), ("clh", False), ("firecracker", False)])
def test_who_needs_the_kernels_vsock(machine: Path, hypervisor: str, needed: bool) -> None:
    """Hypervisors with a vsock of their own do without /dev/vhost-vsock."""
    path = machine / "etc/kata-containers/configuration.toml"
    path.write_text(CONFIGURATION.replace("qemu]", f"{hypervisor}]"))
    (machine / "dev/vhost-vsock").unlink()
    assert needed == ("/dev/vhost-vsock" in wrong(machine))


async def test_a_program_that_is_not_on_path(tmp_path: Path) -> None:
    """The shim in kata's own folder is found by the check and by the start alike."""
    program = tmp_path / "containerd-shim-mine-v2"
    program.write_text("#!/bin/sh\necho version: 4.1.0\n")
    program.chmod(0o755)
    assert str(program) == find_program(program.name, (str(tmp_path),))
    binary = KataBinary(program=program.name, namespace="n", address="a", folders=(str(tmp_path),))
    assert ("version: 4.1.0", str(program)) == (await binary.version(tmp_path), binary.path())
    with pytest.raises(FailedPrecondition):
        attrs.evolve(binary, folders=()).path()


def test_options_are_looked_at() -> None:
    """What a backend's options name is what `crishim check` looks for."""
    findings_of = {found.what: found for found in check({"shim": "io.containerd.mine.v9", "config_path": "/no/such"})}
    assert not findings_of["containerd-shim-mine-v9"].ok
    assert "/no/such" in findings_of["kata's configuration"].without
