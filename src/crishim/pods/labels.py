"""SELinux: a level for each pod, and labels of the files that its containers are given.

A pod's level is recorded in its folder: it is the same after a restart of ours, and nobody else's while the pod is there.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from crishim.errors import InvalidArgument, from_os_error
from crishim.model.container import ContainerSpec
from crishim.model.sandbox import SandboxSpec
from crishim.oci.facts import Labels
from crishim.oci.security import file_label, free_level, named_level, relabelled
from crishim.pods.bundle import write_atomically

_LEVEL: Final = "selinux-level"
_XATTR: Final = "security.selinux"
_CHOOSING: Final = threading.Lock()

_NODES: Final = frozenset(
    {
        *("/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64", "/media"),
        *("/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log"),  # noqa: S108
    }
)
"""What is never relabelled, whatever a pod asks, as it would not be the node's any more: the paths that go-selinux refuses,
and so containerd, CRI-O and podman."""


def label_pod(pods: Path, spec: SandboxSpec) -> None:
    """Choose and record a pod's level, which no other pod in `pods` has, and label its files. Raises `InvalidArgument`."""
    folder = pods / spec.id
    level = named_level(spec)
    with _CHOOSING:
        taken = frozenset(level_of(other) for other in pods.iterdir())
        level = level or free_level(int.from_bytes(hashlib.sha256(spec.id.encode()).digest(), "big"), taken)
        write_atomically(folder / _LEVEL, level)
    files = (folder / name for name in ("hostname", "hosts", "resolv.conf", "shm"))
    relabel((str(file) for file in files if file.exists()), file_label(spec, level))


def level_of(pod: Path) -> str:
    """The recorded level of the pod with this folder; empty for one that has none."""
    try:
        return (pod / _LEVEL).read_text(encoding="ascii")
    except OSError:
        return ""


def volumes_to_label(spec: ContainerSpec, labels: Labels) -> list[str]:
    """The real paths of the volumes that get the container's label. Raises `InvalidArgument` for what is the node's own."""
    paths = []
    for number, mount in relabelled(spec, labels):
        path = os.path.realpath(mount.host_path)
        if path in _NODES:
            raise InvalidArgument(
                f"config.mounts[{number}].selinux_relabel", f"{path} is the node's own, and is not relabelled"
            )
        paths.append(path)
    return paths


def relabel(paths: Iterable[str], label: str) -> None:
    """Label files, and folders with all that is in them. Raises `PermissionDenied`, `Unknown`."""
    for path in paths:
        _label_tree(Path(path), label)


def _label_tree(path: Path, label: str) -> None:
    _label(str(path), label)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            _label(os.path.join(folder, name), label)  # noqa: PTH118 - a walk over names


def _label(path: str, label: str) -> None:
    """Label a file, not what a link leads to. File systems that have no labels, and files that are gone, are left alone."""
    try:
        os.setxattr(path, _XATTR, f"{label}\0".encode(), follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise from_os_error(error, f"labelling {path}") from error
