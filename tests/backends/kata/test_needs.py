from pathlib import Path

import pytest

from crishim.backends.kata.needs import findings

CONFIGURATION = """
[hypervisor.qemu]
path = "{root}/opt/kata/bin/qemu"
kernel = "{root}/opt/kata/vmlinux"
image = ""
initrd = "{root}/opt/kata/initrd"
virtio_fs_daemon = "{root}/opt/kata/virtiofsd"
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
    configuration.write_text(CONFIGURATION.format(root=tmp_path))
    (tmp_path / "dev").mkdir()
    for name in ("kvm", "vhost-vsock", "vhost-net", "log"):
        (tmp_path / "dev" / name).touch()
    return tmp_path


def wrong(root: Path) -> dict[str, bool]:
    """What is missing, and whether it is needed; programs of the machine that runs the tests left aside."""
    return {found.what: found.needed for found in findings(root) if not found.ok and found.what[0] in "/ahgkv"}


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
