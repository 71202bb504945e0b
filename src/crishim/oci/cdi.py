"""CDI, the Container Device Interface (specification 1.0): names of devices -> changes to config.json. Pure.

A vendor's file describes devices as edits: variables, device nodes, mounts, hooks, groups. A container requests a device by its
qualified name, `vendor.com/class=name`. Files of a folder with a higher priority take precedence; a device that two files of
the same priority describe cannot be resolved.
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

_WORDS: Final = {str: "a text", int: "a whole number"}
_EDITS: Final = {
    "env": [str],
    "deviceNodes": [
        {"path!": str, "hostPath": str, "type": str, "permissions": str}
        | dict.fromkeys(("major", "minor", "fileMode", "uid", "gid"), int)
    ],
    "mounts": [{"hostPath!": str, "containerPath!": str, "type": str, "options": [str]}],
    "hooks": [{"hookName!": str, "path!": str, "args": [str], "env": [str], "timeout": int}],
    "additionalGids": [int],
    "intelRdt": {},
}
_FILE: Final = {
    "cdiVersion!": str,
    "kind!": str,
    "containerEdits": _EDITS,
    "devices": [{"name!": str, "containerEdits": _EDITS}],
}
"""The fields of the specification that are read; those with `!` are required."""

FindNode = Callable[[str, str, str], DeviceNode | None]
"""(host path, container path, permissions) -> the device node; None if the host path is not a device."""


@attrs.frozen(kw_only=True)
class Described:
    """The content of a file: a kind (`vendor.com/class`), edits for users of any of its devices, and edits by device.

    If the file is invalid, only `problem` is set: it names the file and the error.
    """

    kind: str = ""
    priority: int = 0
    common: Mapping[str, Any] = attrs.Factory(dict)
    devices: Mapping[str, Mapping[str, Any]] = attrs.Factory(dict)
    problem: str = ""


def described(content: Any, priority: int) -> Described:
    """A file's content, parsed from JSON or YAML. Raises `ValueError` naming the field that violates the specification."""
    _check(content, _FILE, "")
    common = content.get("containerEdits") or {}
    devices = {device["name"]: device.get("containerEdits") or {} for device in content.get("devices") or ()}
    return Described(kind=content["kind"], priority=priority, common=common, devices=devices)


def _check(value: Any, shape: Any, path: str) -> None:
    """Raise `ValueError` if the value does not match: a type, a list of one shape, or an object with fields (`!`: required)."""
    where = path or "the file"
    if isinstance(shape, type):
        if not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
            raise ValueError(f"{where} must be {_WORDS[shape]}, not {value!r}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, not {value!r}")  # noqa: TRY004 - one class for every malformed value
        for number, item in enumerate(value):
            _check(item, shape[0], f"{path}[{number}]")
    else:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object, not {value!r}")  # noqa: TRY004
        for name, inner in shape.items():
            field, below = name.rstrip("!"), f"{path}.{name.rstrip('!')}".lstrip(".")
            if value.get(field) not in (None, ""):
                _check(value[field], inner, below)
            elif name.endswith("!"):
                raise ValueError(f"{below} is missing")


def wanted(names: Sequence[str], annotations: Mapping[str, str]) -> tuple[str, ...]:
    """The devices that a container requests by its field, and by annotations as older kubelets do, without duplicates."""
    requested = list(names)
    for key, value in annotations.items():
        if key.startswith(_ANNOTATION):
            requested.extend(name.strip() for name in value.split(",") if name.strip())
    return tuple(dict.fromkeys(requested))


def inject(config: dict[str, Any], names: Iterable[str], files: Sequence[Described], find: FindNode) -> None:
    """Apply the edits of devices to a config.json. Raises `InvalidArgument` unless exactly one file describes each of them."""
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
        raise InvalidArgument(field, f"{name!r} is not a qualified device name (vendor.com/class=name)")
    kind, _, device = name.partition("=")
    candidates = [file for file in files if file.kind == kind and device in file.devices]
    best = [file for file in candidates if file.priority == max(other.priority for other in candidates)]
    if len(best) != 1:
        problems = "; ".join(("is described by no file", *(file.problem for file in files if file.problem)))
        why = "is described by several files" if best else problems
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
        others = [device for device in linux.get("devices", ()) if device["path"] not in paths]
        linux["devices"] = [*others, *device_nodes(nodes)]
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
                "config.CDI_devices", f"a device requires a hook {hook['hookName']!r}, which the runtime does not support"
            )
        entry = {key: hook[key] for key in ("path", "args", "env", "timeout") if hook.get(key)}
        config.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(entry)
    groups = process["user"]["additionalGids"]
    groups.extend(group for group in edits.get("additionalGids") or () if group and group not in groups)
    if resctrl := edits.get("intelRdt"):
        linux["intelRdt"] = dict(resctrl)


def _node(node: Mapping[str, Any], find: FindNode) -> DeviceNode:
    path, access = node["path"], node.get("permissions") or "rwm"
    device = find(node.get("hostPath") or path, path, access)
    kind, major, minor = node.get("type"), node.get("major"), node.get("minor")
    if kind in {"b", "c"} and major is not None and minor is not None:
        device = attrs.evolve(
            device or DeviceNode(path=path, kind=kind, major=0, minor=0, access=access), kind=kind, major=major, minor=minor
        )
    if device is None:
        raise InvalidArgument(
            "config.CDI_devices", f"a device requires {node.get('hostPath') or path}, which is no device node"
        )
    changes = {"mode": node.get("fileMode"), "uid": node.get("uid"), "gid": node.get("gid")}
    return attrs.evolve(device, **{name: value for name, value in changes.items() if value is not None})
