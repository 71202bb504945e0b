"""Looks up what a container's configuration names on the host: mount sources, devices, profile files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from crishim.errors import InvalidArgument, PullError, PullReason
from crishim.linux.mounts import MountPoint, mount_of, read_mounts
from crishim.linux.roots import path_in_root
from crishim.model.container import ContainerSpec, Device
from crishim.model.values import FrozenDict
from crishim.oci.cdi import Described, described
from crishim.oci.facts import BindSource, DeviceNode
from crishim.oci.security import is_localhost
from crishim.pods.host import device_node

CDI_FOLDERS: Final = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""Folders of device descriptions; a later one takes precedence (CDI specification, "Registry")."""


def bind_sources(spec: ContainerSpec) -> FrozenDict[str, BindSource]:
    """Each mount's source, with links resolved. A missing source is created as a folder, as containerd and CRI-O do."""
    mounts = read_mounts() if spec.mounts else []
    found = {}
    for number, mount in enumerate(spec.mounts):
        if not mount.host_path:
            continue
        path = os.path.realpath(mount.host_path)
        try:
            if not os.path.lexists(path):
                Path(path).mkdir(parents=True, mode=0o755)
        except OSError as error:
            raise InvalidArgument(f"config.mounts[{number}].host_path", f"{path!r}: {error.strerror}") from error
        found[mount.container_path] = _source(path, mounts)
    return FrozenDict(found)


def image_source(root: Path, sub_path: str) -> BindSource:
    """What an image volume shows of an image. Raises `PullError` with the kubelet's reason if the path is not in the image."""
    try:
        if ".." in sub_path.split("/"):
            raise FileNotFoundError
        inside = path_in_root(root, sub_path)
    except OSError as error:
        raise PullError(PullReason.IMAGE_VOLUME_MOUNT_FAILED, f"the image has no {sub_path!r}") from error
    return BindSource(path=str(inside), shared=False, slave=False)


def devices(spec: ContainerSpec) -> tuple[DeviceNode, ...]:
    """The requested device nodes; a folder stands for all nodes below it."""
    nodes: list[DeviceNode] = []
    for number, device in enumerate(spec.devices):
        found = list(_nodes(device))
        if not found:
            raise InvalidArgument(f"config.devices[{number}].host_path", f"{device.host_path!r} is not a device")
        nodes.extend(found)
    return tuple(nodes)


def _nodes(device: Device) -> list[DeviceNode]:
    source = os.path.realpath(device.host_path)
    target = device.container_path or device.host_path
    if not Path(source).is_dir():
        node = device_node(source, target, device.permissions)
        return [node] if node else []
    names = sorted(path for path in Path(source).rglob("*"))
    device_nodes = (device_node(str(name), str(Path(target) / name.relative_to(source)), device.permissions) for name in names)
    return [node for node in device_nodes if node is not None]


def profiles(spec: ContainerSpec) -> FrozenDict[str, str]:
    """The text of the Localhost seccomp profile, under its reference."""
    seccomp = spec.security.seccomp if spec.security else None
    if seccomp is None or not is_localhost(seccomp):
        return FrozenDict()
    path = seccomp.localhost_ref
    try:
        return FrozenDict({seccomp.localhost_ref: Path(path).read_text(encoding="utf-8")})
    except OSError as error:
        raise InvalidArgument("config.linux.security_context.seccomp.localhost_ref", f"{path}: {error.strerror}") from error


def cdi_files(folders: Sequence[Path] = CDI_FOLDERS) -> tuple[Described, ...]:
    """The descriptions of CDI devices on this machine; for an invalid file only its `problem` is set."""
    found = []
    for priority, folder in enumerate(folders):
        for path in sorted(folder.glob("*")):
            if path.suffix in {".json", ".yaml", ".yml"}:
                try:
                    found.append(described(_parsed(path), priority))
                except (OSError, ValueError, ImportError) as error:
                    found.append(Described(problem=f"{path}: {error}"))
    return tuple(found)


def _parsed(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from error


def _source(path: str, mounts: list[MountPoint]) -> BindSource:
    """A path with the propagation of the mount that contains it."""
    own = mount_of(path, mounts)
    return BindSource(path=path, shared=own is not None and own.shared, slave=own is not None and own.slave)
