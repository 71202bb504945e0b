"""What runc's pods need of a machine, for `crishim check`: looked at, and never changed."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crishim.interfaces.checks import Finding

_PROGRAMS: Final = (
    ("runc", True, "no container can be made (unless a handler names crun or another)", "runc"),
    ("conmon", True, "no container can be made", "conmon"),
    ("skopeo", True, "no image can be pulled", "skopeo"),
    ("unshare", False, "no pod can have a user namespace", "util-linux"),
    ("nsenter", False, "no pod can have a user namespace", "util-linux"),
    ("catatonit", False, "no pod can share a process namespace among its containers", "catatonit"),
)
_PLUGINS: Final = ("opt/cni/bin", "usr/lib/cni")
_SECCOMP: Final = "usr/share/containers/seccomp.json"
_POLICY: Final = "etc/containers/policy.json"


def findings(root: Path) -> Iterator[Finding]:
    """One finding for each thing. `root` is where the machine's files lie."""
    yield Finding(what="root", ok=os.geteuid() == 0, without="nothing can be mounted", remedy="run it as root")
    for program, needed, without, package in _PROGRAMS:
        path = shutil.which(program)
        remedy = f"apt-get install {package}"
        yield Finding(what=program, ok=path is not None, needed=needed, found=path or "", without=without, remedy=remedy)
    kinds = _text(root / "proc/filesystems").split()
    yield Finding(
        what="overlayfs", ok="overlay" in kinds, without="no root file system can be mounted", remedy="modprobe overlay"
    )
    folders = [folder for folder in _PLUGINS if (root / folder).is_dir()]
    yield Finding(
        what="CNI plugins",
        ok=bool(folders),
        needed=False,
        found=", ".join(f"/{folder}" for folder in folders),
        without="only pods on the host's network can run",
        remedy="apt-get install containernetworking-plugins",
    )
    yield _file(root, _SECCOMP, "pods that ask for the RuntimeDefault seccomp profile are refused", needed=False)
    yield _file(root, _POLICY, "nothing is pulled, unless the configuration names a signature policy", needed=False)


def _file(root: Path, name: str, without: str, *, needed: bool) -> Finding:
    there = (root / name).is_file()
    remedy = "apt-get install golang-github-containers-common"
    return Finding(what=f"/{name}", ok=there, needed=needed, found=f"/{name}" if there else "", without=without, remedy=remedy)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
