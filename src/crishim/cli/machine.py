"""The needs of serving beside the backends, and the kind of node, for `crishim check` and `config init`.

`root` is the root of the machine's files.
"""

import os
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crishim import app
from crishim.cni.network import CniNetwork
from crishim.config import Config
from crishim.interfaces.seats import Finding
from crishim.linux.programs import find_program
from crishim.pods.host import cgroup_v2

_PROGRAMS: Final = (
    ("unshare", False, "no pod can have a user namespace", "util-linux"),
    ("nsenter", False, "no pod can have a user namespace", "util-linux"),
)
_POLICY: Final = "/etc/containers/policy.json"
_DRIVER: Final = re.compile(r'^\s*"?cgroupDriver"?:\s*["\']?(\w+)', re.MULTILINE)
_DRIVER_FLAG: Final = re.compile(r"--cgroup-driver[= ][\"']?(\w+)")


def folder_findings(config: Config) -> Iterator[Finding]:
    """The folders that crishim writes to."""
    for folder in dict.fromkeys((config.state, config.runtime_state, str(Path(config.listen).parent))):
        near = next(path for path in (Path(folder), *Path(folder).parents) if os.path.exists(path))  # noqa: PTH110 - may be hidden
        writable = _writable(near)
        yield Finding(
            what=folder, ok=writable, found=f"{near} is writable", without="no state can be stored", remedy="run as root"
        )


def node_findings(config: Config, *, store: bool, root: Path = Path("/")) -> Iterator[Finding]:
    """The needs of pods whose namespaces and networks crishim makes (`Plugin.needs_node`); with `store`, also of those whose
    images it pulls and mounts.
    """
    yield Finding(what="root", ok=os.geteuid() == 0, without="no namespace can be created or mounted", remedy="run it as root")
    for program, needed, without, package in _PROGRAMS:
        yield _program(program, without, package, needed=needed)
    driver = app.driver_of(config).name.lower()
    yield Finding(what="cgroups", ok=True, found=f"version {2 if cgroup_v2() else 1}, driver {driver}")
    yield from driver_findings(driver, root / "var/lib/kubelet")
    yield _apparmor(root)
    folders = [Path(folder) for folder in config.network.plugins]
    network = CniNetwork(Path(config.network.config), folders, Path(config.state) / "cni")
    lacking = network.lacks()
    yield Finding(
        what="pod network",
        ok=not lacking,
        found=network.name,
        without=f"{lacking}: the node is not ready, and only pods on the host network run",
        remedy=f"install a CNI plug-in's DaemonSet, or write {config.network.config}/10-pods.conflist",
    )
    if store:
        yield _overlay(root)
        yield _program("skopeo", "no image can be pulled", "skopeo", needed=True)
        yield from _image_findings(config, root)


def driver_findings(driver: str, kubelet: Path) -> Iterator[Finding]:
    """Whether the kubelet in this folder, if there is one, has the same cgroup driver; its flag precedes its file."""
    for file, pattern in ((kubelet / "kubeadm-flags.env", _DRIVER_FLAG), (kubelet / "config.yaml", _DRIVER)):
        if match := pattern.search(_text(file)):
            yield Finding(
                what="the kubelet's cgroupDriver",
                ok=match[1] == driver,
                found=match[1],
                without=f"{file} has {match[1]}, and crishim {driver}: limits of pods are lost",
                remedy=f"set {driver} there, or cgroup_driver here",
            )
            return


def _program(name: str, without: str, package: str, *, needed: bool) -> Finding:
    path = find_program(name)
    return Finding(what=name, ok=bool(path), needed=needed, found=path, without=without, remedy=f"apt-get install {package}")


def _apparmor(root: Path) -> Finding:
    enabled = _text(root / "sys/module/apparmor/parameters/enabled").startswith("Y")
    return Finding(
        what="AppArmor",
        ok=enabled,
        needed=False,
        found="enabled",
        without="the kernel has none: pods with a profile are refused",
    )


def _overlay(root: Path) -> Finding:
    """Whether overlayfs is in the kernel, or as a module that the first mount loads."""
    modules = root / "lib/modules" / platform.release()
    there = "overlay" in _text(root / "proc/filesystems").split()
    loadable = any("/overlay.ko" in _text(modules / name) for name in ("modules.dep", "modules.builtin"))
    return Finding(
        what="overlayfs",
        ok=there or loadable,
        found="in the kernel" if there else "a module, loaded by the first mount",
        without="no root file system can be mounted",
        remedy="a kernel with CONFIG_OVERLAY_FS",
    )


def _image_findings(config: Config, root: Path) -> Iterator[Finding]:
    policy = config.images.policy
    named = {"images.registries_conf": config.images.registries_conf, "images.authfile": config.images.authfile}
    files = {_POLICY if not policy else f"images.policy {policy}": policy or _POLICY}
    files |= {f"{key} {path}": path for key, path in named.items() if path}
    for what, path in files.items():
        yield Finding(
            what=what,
            ok=os.access(root / path.lstrip("/"), os.R_OK),
            without="no image is pulled",
            remedy="apt-get install golang-github-containers-common" if path == _POLICY else "write it, or leave the key out",
        )


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
