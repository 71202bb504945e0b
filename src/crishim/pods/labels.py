"""SELinux: a level for each pod, and labels of the files that its containers use.

A pod's level is recorded in its folder: it survives a restart, and no other pod gets it while the pod exists.
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
"""Folders of the node that are never relabelled, whatever a pod requests: the paths that go-selinux refuses, and with it
containerd, CRI-O and podman."""


def label_pod(pods: Path, spec: SandboxSpec) -> None:
    """Choose and record a level that no other pod in `pods` has, and label the pod's files. Raises `InvalidArgument`."""
    folder = pods / spec.id
    level = named_level(spec)
    with _CHOOSING:
        taken = frozenset(level_of(other) for other in pods.iterdir())
        level = level or free_level(int.from_bytes(hashlib.sha256(spec.id.encode()).digest(), "big"), taken)
        write_atomically(folder / _LEVEL, level)
    files = (folder / name for name in ("hostname", "hosts", "resolv.conf", "shm"))
    relabel((str(file) for file in files if file.exists()), file_label(spec, level))


def level_of(pod: Path) -> str:
    """The recorded level of the pod with this folder; empty if it has none."""
    try:
        return (pod / _LEVEL).read_text(encoding="ascii")
    except OSError:
        return ""


def volumes_to_label(spec: ContainerSpec, labels: Labels) -> list[str]:
    """The real paths of the volumes to label. Raises `InvalidArgument` for the node's own folders."""
    paths = []
    for number, mount in relabelled(spec, labels):
        path = os.path.realpath(mount.host_path)
        if path in _NODES:
            raise InvalidArgument(
                f"config.mounts[{number}].selinux_relabel", f"{path} belongs to the node and is not relabelled"
            )
        paths.append(path)
    return paths


def relabel(paths: Iterable[str], label: str) -> None:
    """Label files, and folders recursively. Raises `PermissionDenied`, `Unknown`."""
    for path in paths:
        _label_tree(Path(path), label)


def _label_tree(path: Path, label: str) -> None:
    _label(str(path), label)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            _label(os.path.join(folder, name), label)  # noqa: PTH118 - a walk over names


def _label(path: str, label: str) -> None:
    """Label a file, without following links. File systems without labels, and files that no longer exist, are ignored."""
    try:
        os.setxattr(path, _XATTR, f"{label}\0".encode(), follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise from_os_error(error, f"labelling {path}") from error
