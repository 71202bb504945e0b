"""Changes of a config.json that a plugin of the node requests, in the terms of the OCI runtime specification (pure).

`ContainerSpec.oci_changes` has these keys, each optional:

    annotations, namespaces, sysctl, netDevices     a mapping from names to values, None for what is removed;
                                                    a namespace's value is its path, empty for a new one
    mounts, devices                                 objects of the specification, which replace those of their
                                                    destination or path; with `remove: True` that one is removed
    hooks                                           lists by kind, which are appended
    rlimits                                         a list; each replaces that of its type
    resources                                       memory, cpu and pids are merged, device rules are appended
    cgroupsPath, ioPriority, seccomp, scheduler,    the value of the specification;
    memoryPolicy, intelRdt                          None removes intelRdt
"""

from collections.abc import Mapping
from typing import Any, Final

_PROCESS: Final = ("ioPriority", "scheduler")
_LINUX: Final = ("cgroupsPath", "seccomp", "memoryPolicy")


def apply_changes(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Change a config.json."""
    process, linux = config["process"], config["linux"]
    _merge(config.setdefault("annotations", {}), changes.get("annotations", {}))
    _replace(config.setdefault("mounts", []), changes.get("mounts", ()), "destination")
    if "mounts" in changes:  # a mount comes after that of a folder around it
        config["mounts"].sort(key=lambda mount: len([part for part in mount["destination"].split("/") if part]))
    for kind, hooks in changes.get("hooks", {}).items():
        config.setdefault("hooks", {}).setdefault(kind, []).extend(hooks)
    if "rlimits" in changes:
        _replace(process.setdefault("rlimits", []), changes["rlimits"], "type")
    for name in _PROCESS:
        if name in changes:
            process[name] = changes[name]
    for name in _LINUX:
        if name in changes:
            linux[name] = changes[name]
    if "intelRdt" in changes:
        linux.pop("intelRdt", None)
        if changes["intelRdt"] is not None:
            linux["intelRdt"] = changes["intelRdt"]
    for kind, path in changes.get("namespaces", {}).items():
        linux["namespaces"] = [item for item in linux["namespaces"] if item["type"] != kind]
        if path is not None:
            linux["namespaces"].append({"type": kind, **({"path": path} if path else {})})
    for name in ("sysctl", "netDevices"):
        if name in changes:
            _merge(linux.setdefault(name, {}), changes[name])
    _change_devices(linux, changes.get("devices", ()))
    _change_resources(linux.setdefault("resources", {}), changes.get("resources", {}))


def _merge(target: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value


def _replace(target: list[dict[str, Any]], changes: Any, key: str) -> None:
    for change in changes:
        target[:] = [item for item in target if item[key] != change[key]]
        if not change.get("remove"):
            target.append(change)


def _change_devices(linux: dict[str, Any], changes: Any) -> None:
    if not changes:
        return
    _replace(linux.setdefault("devices", []), changes, "path")
    rules = linux.setdefault("resources", {}).setdefault("devices", [])
    for device in changes:
        if not device.get("remove"):
            numbers = {name: device[name] for name in ("type", "major", "minor")}
            rules.append({"allow": True, **numbers, "access": "rwm"})


def _change_resources(target: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, change in changes.items():
        if name == "devices":
            target.setdefault("devices", []).extend(change)
        else:
            target.setdefault(name, {}).update(change)
