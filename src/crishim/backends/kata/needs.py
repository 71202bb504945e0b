"""What kata needs of a machine, for `crishim check`: looked at, and never changed."""

import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from crishim.interfaces.seats import Finding

CONFIGURATIONS: Final = (
    "etc/kata-containers/configuration.toml",
    "usr/share/defaults/kata-containers/configuration.toml",
    "opt/kata/share/defaults/kata-containers/configuration.toml",
)
"""Where kata looks for its configuration when a handler names none; the first one counts."""

SHIM: Final = "containerd-shim-kata-v2"
_PACKAGE: Final = "install kata-static from the project's releases, or kata-deploy"
_FILES: Final = (("path", "hypervisor", True), ("kernel", "guest kernel", True), ("virtio_fs_daemon", "virtiofsd", False))


def findings(root: Path) -> Iterator[Finding]:
    """One finding for each thing. `root` is where the machine's files lie."""
    path = shutil.which(SHIM) or shutil.which(SHIM, path="/opt/kata/bin")
    yield Finding(what=SHIM, ok=path is not None, found=path or "", without="no pod can be started", remedy=_PACKAGE)
    yield from _configured(root)
    yield _device(root, "dev/kvm", "machines are emulated, if the configuration's hypervisor can do without; else none boots")
    yield _device(root, "dev/vhost-vsock", "the shim cannot speak with the guest", needed=True, module="vhost_vsock")
    yield _device(root, "dev/vhost-net", "the pod network is slower", module="vhost_net")
    log = root / "dev/log"
    yield Finding(
        what="a syslog at /dev/log",
        ok=log.exists(),
        found=str(log) if log.exists() else "",
        without="kata's shim refuses every container (Unix syslog delivery error)",
        remedy="run systemd-journald, or a syslog daemon",
    )
    pause = shutil.which("catatonit")
    yield Finding(
        what="catatonit",
        ok=pause is not None,
        found=pause or "",
        without="a machine has nothing to run as its pod's own container",
        remedy="apt-get install catatonit",
    )


def _configured(root: Path) -> Iterator[Finding]:
    """The configuration, and what it names."""
    path = next((root / name for name in CONFIGURATIONS if (root / name).is_file()), None)
    if path is None:
        yield Finding(
            what="kata's configuration", ok=False, needed=False, without="every handler needs its config_path", remedy=_PACKAGE
        )
        return
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield Finding(what="kata's configuration", ok=False, found=str(path), without=f"it cannot be read: {error}")
        return
    yield Finding(what="kata's configuration", ok=True, found=str(path))
    for name, section in told.get("hypervisor", {}).items():
        yield from _files(name, section)


def _files(hypervisor: str, section: dict[str, Any]) -> Iterator[Finding]:
    wanted = [(str(section.get(key, "")), what, needed) for key, what, needed in _FILES]
    image = str(section.get("image", "") or section.get("initrd", ""))
    for path, what, needed in (*wanted, (image, "guest image", True)):
        if path or needed:
            there = bool(path) and os.access(path, os.R_OK)
            yield Finding(
                what=f"{what} of {hypervisor}",
                ok=there,
                found=path if there else "",
                without=f"{path or 'nothing'} is configured, and not there: no machine boots",
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
