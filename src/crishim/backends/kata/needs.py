"""What kata needs of a machine, for `crishim check`. Changes nothing."""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from crishim.backends.kata.leftovers import PROGRAMS
from crishim.interfaces.seats import Finding
from crishim.linux.programs import find_program
from crishim.shimv2.client.binary import binary_name

CONFIGURATIONS: Final = (
    "etc/kata-containers/configuration.toml",
    "usr/share/defaults/kata-containers/configuration.toml",
    "opt/kata/share/defaults/kata-containers/configuration.toml",
)
"""Where kata searches for its configuration if a handler names none, in this order."""

RUNTIME: Final = "io.containerd.kata.v2"
_OWN_VSOCK: Final = frozenset({"clh", "cloud-hypervisor", "dragonball", "firecracker"})
"""Hypervisors, by their names in kata's configuration, that use vsock over a socket of their own, without the kernel's."""

_PACKAGE: Final = "install kata-static from the project's releases, or kata-deploy"
_FILES: Final = (("path", "hypervisor", True), ("kernel", "guest kernel", True), ("virtio_fs_daemon", "virtiofsd", False))


def findings(root: Path, shim: str = RUNTIME, config_path: str = "") -> Iterator[Finding]:
    """One finding for each need. `root` is the root of the machine's files; `shim` and `config_path` are a
    backend's options.
    """
    program = binary_name(shim)
    path = find_program(program, PROGRAMS)
    yield Finding(what=program, ok=bool(path), found=path, without="no pod can be started", remedy=_PACKAGE)
    finding, hypervisors = _configuration(root, config_path)
    yield finding
    for name, section in hypervisors.items():
        yield from _files(root, name, section)
    yield _device(root, "dev/kvm", "machines are emulated if the configured hypervisor supports that; else none boots")
    if not hypervisors or not _OWN_VSOCK.issuperset(hypervisors):
        yield _device(root, "dev/vhost-vsock", "the shim cannot connect to the guest", needed=True, module="vhost_vsock")
    yield _device(root, "dev/vhost-net", "the pod network is slower", module="vhost_net")
    log = root / "dev/log"
    yield Finding(
        what="a syslog at /dev/log",
        ok=log.exists(),
        found=str(log) if log.exists() else "",
        without="kata's shim refuses every container (Unix syslog delivery error)",
        remedy="run systemd-journald, or a syslog daemon",
    )
    pause = find_program("catatonit")
    yield Finding(
        what="catatonit",
        ok=bool(pause),
        found=pause,
        without="there is no program for a pod's own container",
        remedy="apt-get install catatonit",
    )


def _configuration(root: Path, config_path: str) -> tuple[Finding, dict[str, Any]]:
    """The configuration at `config_path`, or else the one that kata finds, and its hypervisor sections."""
    what = "kata's configuration"
    names = (config_path.lstrip("/"),) if config_path else CONFIGURATIONS
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is None and config_path:
        return Finding(what=what, ok=False, without=f"{config_path} is configured and does not exist", remedy=_PACKAGE), {}
    if path is None:
        without = "every handler needs its config_path"
        return Finding(what=what, ok=False, needed=False, without=without, remedy=_PACKAGE), {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return Finding(what=what, ok=False, found=str(path), without=f"it cannot be read: {error}", remedy=_PACKAGE), {}
    return Finding(what=what, ok=True, found=str(path)), dict(table.get("hypervisor", {}))


def _files(root: Path, hypervisor: str, section: dict[str, Any]) -> Iterator[Finding]:
    files = [(str(section.get(key, "")), what, needed) for key, what, needed in _FILES]
    image = str(section.get("image", "") or section.get("initrd", ""))
    for path, what, needed in (*files, (image, "guest image", True)):
        if path or needed:
            there = bool(path) and os.access(root / path.lstrip("/"), os.R_OK)
            yield Finding(
                what=f"{what} of {hypervisor}",
                ok=there,
                found=path if there else "",
                without=f"{path or 'nothing'} is configured and does not exist: no machine boots",
                remedy=_PACKAGE,
            )


def _device(root: Path, name: str, without: str, *, needed: bool = False, module: str = "") -> Finding:
    path = root / name
    return Finding(
        what=f"/{name}",
        ok=path.exists(),
        needed=needed,
        found=f"/{name}" if path.exists() else "",
        without=without,
        remedy=f"modprobe {module}" if module else "a machine with virtualisation switched on (nested, in a virtual one)",
    )
