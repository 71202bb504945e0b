"""CDI, the Container Device Interface (specification 1.0): names of devices -> changes to config.json. Pure.

A vendor's file describes devices as edits: variables, device nodes, mounts, hooks, groups. A device is asked for by its full
name, `vendor.com/class=name`. Files of a folder with a higher priority go before others; two files of the same priority that
both describe a device make it unusable, as nobody could say which is meant.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from crishim.errors import InvalidArgument
from crishim.oci.facts import DeviceNode
from crishim.oci.mounts import PROPAGATIONS
from crishim.oci.resources import device_nodes, device_rules

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*")
_ANNOTATION: Final = "cdi.k8s.io/"
_HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

FindNode = Callable[[str, str, str], DeviceNode | None]
"""The node at a host path, to be seen at a container path with these permissions; None for what is no device."""


@attrs.frozen(kw_only=True)
class Described:
    """A file's content: a kind (`vendor.com/class`), edits for whoever uses any of its devices, and edits by device."""

    kind: str
    priority: int
    common: Mapping[str, Any]
    devices: Mapping[str, Mapping[str, Any]]


def described(content: Any, priority: int) -> Described:
    """A file, parsed from JSON or YAML. Raises `ValueError` for what is none of CDI's."""
    try:
        kind = str(content["kind"])
        devices = {str(device["name"]): device.get("containerEdits") or {} for device in content.get("devices") or ()}
        common = content.get("containerEdits") or {}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"is no description of CDI devices: {error!r}") from error
    if not content.get("cdiVersion"):
        raise ValueError("has no cdiVersion")
    return Described(kind=kind, priority=priority, common=common, devices=devices)


def wanted(names: Sequence[str], annotations: Mapping[str, str]) -> tuple[str, ...]:
    """The devices that a container asks for by its field, and by its annotations as older kubelets do, each once."""
    asked = list(names)
    for key, value in annotations.items():
        if key.startswith(_ANNOTATION):
            asked.extend(name.strip() for name in value.split(",") if name.strip())
    return tuple(dict.fromkeys(asked))


def inject(config: dict[str, Any], names: Iterable[str], files: Sequence[Described], find: FindNode) -> None:
    """Change a config.json for these devices. Raises `InvalidArgument` for one that not exactly one file describes."""
    used: list[Described] = []
    for number, name in enumerate(names):
        file, edits = _resolve(name, files, f"config.CDI_devices[{number}].name")
        if file not in used:
            used.append(file)
            _edit(config, file.common, find)
        _edit(config, edits, find)
    config["mounts"].sort(key=lambda mount: mount["destination"].rstrip("/").count("/"))


def _resolve(name: str, files: Sequence[Described], field: str) -> tuple[Described, Mapping[str, Any]]:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(field, f"{name!r} is no full name of a device (vendor.com/class=name)")
    kind, _, device = name.partition("=")
    found = [file for file in files if file.kind == kind and device in file.devices]
    best = [file for file in found if file.priority == max(other.priority for other in found)]
    if len(best) != 1:
        why = "is described by no file" if not best else "is described by several files"
        raise InvalidArgument(field, f"unresolvable CDI device {name}: it {why}")
    return best[0], best[0].devices[device]


def _edit(config: dict[str, Any], edits: Mapping[str, Any], find: FindNode) -> None:
    process, linux = config["process"], config["linux"]
    for variable in edits.get("env") or ():
        key = variable.partition("=")[0]
        process["env"] = [*(other for other in process["env"] if other.partition("=")[0] != key), variable]
    nodes = tuple(_node(node, find) for node in edits.get("deviceNodes") or ())
    if nodes:
        paths = {node.path for node in nodes}
        kept = [device for device in linux.get("devices", ()) if device["path"] not in paths]
        linux["devices"] = [*kept, *device_nodes(nodes)]
        linux["resources"]["devices"] += device_rules(nodes, everything=False)[1:]
    for mount in edits.get("mounts") or ():
        kind, options = mount.get("type") or "bind", list(mount.get("options") or ())
        if kind == "bind" and not {"bind", "rbind"} & set(options):
            options.insert(0, "rbind")
        if kind == "bind" and not PROPAGATIONS & set(options):
            options.append("rprivate")
        config["mounts"].append(
            {"destination": mount["containerPath"], "type": kind, "source": mount["hostPath"], "options": options}
        )
    for hook in edits.get("hooks") or ():
        if hook["hookName"] not in _HOOKS:
            raise InvalidArgument(
                "config.CDI_devices", f"a device wants a hook {hook['hookName']!r}, which the runtime has not"
            )
        told = {key: hook[key] for key in ("path", "args", "env", "timeout") if hook.get(key)}
        config.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(told)
    groups = process["user"]["additionalGids"]
    groups.extend(group for group in edits.get("additionalGids") or () if group and group not in groups)
    if resctrl := edits.get("intelRdt"):
        linux["intelRdt"] = dict(resctrl)


def _node(node: Mapping[str, Any], find: FindNode) -> DeviceNode:
    path, access = node["path"], node.get("permissions") or "rwm"
    found = find(node.get("hostPath") or path, path, access)
    kind, major, minor = node.get("type"), node.get("major"), node.get("minor")
    if kind in {"b", "c"} and major is not None and minor is not None:
        found = attrs.evolve(
            found or DeviceNode(path=path, kind=kind, major=0, minor=0, access=access), kind=kind, major=major, minor=minor
        )
    if found is None:
        raise InvalidArgument("config.CDI_devices", f"a device wants the node {node.get('hostPath') or path}, which is none")
    changes = {"mode": node.get("fileMode"), "uid": node.get("uid"), "gid": node.get("gid")}
    return attrs.evolve(found, **{name: value for name, value in changes.items() if value is not None})
