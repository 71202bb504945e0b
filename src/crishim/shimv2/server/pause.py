"""The container that stands for a pod: a pause program with the pod's namespaces, as containerd's own sandbox container.

containerd's Sandbox service sends a PodSandboxConfig and a network namespace, no bundle and no image: config.json, the root
with the pause program (`catatonit -P`), and the files that the pod's containers share are made here.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from crishim.errors import DataLoss, FailedPrecondition
from crishim.linux.cgroups import read_text
from crishim.linux.programs import find_program
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import LinuxContainerUser, NamespaceMode
from crishim.model.values import FrozenDict
from crishim.oci.facts import Host, NamespacePaths, Place
from crishim.oci.resources import cgroups_path
from crishim.oci.spec import config as oci_config
from crishim.pods.bundle import read_config, write_bundle
from crishim.pods.pause import PAUSE, pause_spec

MEMBER_OF: Final = "sandbox"
"""The file in a bundle with the id of the sandbox to which its container belongs; containerd 2 writes it."""

_NS_GET_USERNS: Final = 0xB701
"""ioctl_nsfs(2): a descriptor of the user namespace that owns a namespace."""
_TYPE: Final = "io.kubernetes.cri.container-type"
_SANDBOX: Final = "io.kubernetes.cri.sandbox-id"
_SHM: Final = "/dev/shm"  # noqa: S108 - the container's


def owner(netns: str) -> int:
    """A descriptor of the user namespace that owns a network namespace, which the caller closes. Raises `OSError`."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(descriptor, _NS_GET_USERNS)
    finally:
        os.close(descriptor)


def make_root(folder: Path) -> None:
    """Write the root file system of every pause container, which is mounted read-only. Raises `FailedPrecondition`."""
    if not (program := find_program(PAUSE)):
        raise FailedPrecondition("missing", "installed", f"{PAUSE}, which stands for a pod,")
    for name in ("proc", "sys", "dev", "etc"):
        (folder / name).mkdir(parents=True, exist_ok=True, mode=0o755)
    if not (folder / PAUSE).exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:  # pods start at the same time
            shutil.copy(program, Path(own) / PAUSE)  # without extended attributes, of which one is SELinux's label
            (Path(own) / PAUSE).replace(folder / PAUSE)


def pause_config(spec: SandboxSpec, host: Host, userns: str = "") -> dict[str, Any]:
    """config.json of a pod's pause container. `userns`: the path of the pod's user namespace, which owns its network."""
    pause = pause_spec(spec)
    parent = spec.config.linux.cgroup_parent
    options = spec.namespaces
    place = Place(
        rootfs="rootfs",
        user=LinuxContainerUser(0, 0, (0,)),
        namespaces=NamespacePaths(network=spec.netns, user=userns, host_pid=options.pid is NamespaceMode.NODE),
        cgroups_path=cgroups_path(parent, spec.id, systemd=parent.endswith(".slice")),
        annotations=FrozenDict({_TYPE: "sandbox"}),
    )
    config = oci_config(pause, host, place)
    linux: dict[str, Any] = config["linux"]
    config["root"]["readonly"] = True
    if options.ipc is not NamespaceMode.NODE:
        linux["namespaces"].append({"type": "ipc"})
    if not spec.host_network:
        linux["namespaces"].append({"type": "uts"})
        config["hostname"] = spec.config.hostname or host.hostname
    if spec.config.linux.sysctls:
        linux["sysctl"] = dict(spec.config.linux.sysctls)
    return config


def sandbox_of(bundle: Path) -> str:
    """The id of the sandbox to which a bundle's container belongs; empty for none.

    containerd 2 writes it to a file for a shim with Task v3; for any other it is in config.json.
    """
    if found := read_text(bundle / MEMBER_OF).strip():
        return found
    try:
        annotations: dict[str, str] = read_config(bundle).get("annotations", {})
    except DataLoss:
        return ""
    return annotations.get(_SANDBOX, "") if annotations.get(_TYPE) == "container" else ""


def add_pod_files(bundle: Path, pods: Path) -> str:
    """Mount the files of a pod in a container that belongs to it, where its config.json mounts nothing else.

    `pods` has a folder for each pod whose files are here: containerd leaves them to a shim that is the sandbox itself. Returns
    the id of the container's sandbox, empty for none.
    """
    sandbox = sandbox_of(bundle)
    folder = pods / sandbox
    if not sandbox or "/" in sandbox or not (folder / "hostname").is_file():
        return sandbox
    config = read_config(bundle)
    mounts = config.setdefault("mounts", [])
    access = "ro" if config.get("root", {}).get("readonly") else "rw"
    joined = {one.get("type") for one in config.get("linux", {}).get("namespaces", ()) if one.get("path")}
    taken = {one.get("destination") for one in mounts if one.get("destination") != _SHM or one.get("type") == "bind"}
    for path, name in (("/etc/hostname", "hostname"), ("/etc/hosts", "hosts"), ("/etc/resolv.conf", "resolv.conf")):
        if path not in taken:
            options = ["rbind", "rprivate", access]
            mounts.append({"destination": path, "type": "bind", "source": str(folder / name), "options": options})
    if _SHM not in taken and "ipc" in joined and (folder / "shm").is_dir():
        config["mounts"] = [one for one in mounts if one.get("destination") != _SHM]
        options = ["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"]
        config["mounts"].append({"destination": _SHM, "type": "bind", "source": str(folder / "shm"), "options": options})
    write_bundle(bundle, config, "")
    return sandbox
