"""Applies merged adjustments to a container's spec (pure).

What a field of the spec expresses is set there, so that every backend receives it and CRI shows it. The rest becomes
`ContainerSpec.oci_changes`, which backends apply that write a config.json.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from crishim._proto import nri_pb2 as pb
from crishim.errors import InvalidArgument
from crishim.model.container import ContainerSpec, Mount
from crishim.model.resources import Resources
from crishim.model.values import FrozenDict
from crishim.nri.convert import mount_model, resources_model
from crishim.nri.merging import removed

_HOOKS: Final = {
    "prestart": "prestart",
    "create_runtime": "createRuntime",
    "create_container": "createContainer",
    "start_container": "startContainer",
    "poststart": "poststart",
    "poststop": "poststop",
}
_MEMORY: Final = {
    "reservation": "reservation",
    "kernel": "kernel",
    "kernel_tcp": "kernelTCP",
    "swappiness": "swappiness",
    "disable_oom_killer": "disableOOMKiller",
    "use_hierarchy": "useHierarchy",
}


def adjusted(spec: ContainerSpec, adjust: pb.ContainerAdjustment) -> ContainerSpec:
    """The spec with an adjustment. Raises `InvalidArgument` for a block I/O class, whose meaning no file here defines."""
    if adjust.linux.resources.HasField("blockio_class"):
        raise InvalidArgument("NRI adjustment linux.resources.blockio_class", "is not supported")
    mounts, other_mounts = _mounts(spec.mounts, adjust)
    annotations = {removed(key)[0]: None if removed(key)[1] else value for key, value in adjust.annotations.items()}
    changes = {
        "annotations": annotations,
        "mounts": other_mounts,
        "hooks": _hooks(adjust.hooks),
        "rlimits": [{"type": limit.type, "hard": limit.hard, "soft": limit.soft} for limit in adjust.rlimits],
        **_linux(adjust.linux),
    }
    return attrs.evolve(
        spec,
        argv=tuple(adjust.args) or spec.argv,
        env=_env(spec.env, adjust),
        annotations=FrozenDict({key: value for key, value in {**spec.annotations, **annotations}.items() if value is not None}),
        mounts=mounts,
        cdi_devices=(*spec.cdi_devices, *(device.name for device in adjust.CDI_devices)),
        resources=_resources(spec.resources, adjust.linux),
        oci_changes=FrozenDict({name: value for name, value in changes.items() if value or name == "intelRdt"}),
    )


def _env(env: Mapping[str, str], adjust: pb.ContainerAdjustment) -> FrozenDict[str, str]:
    changed = dict(env)
    for item in adjust.env:
        key, mark = removed(item.key)
        if mark:
            changed.pop(key, None)
        else:
            changed[key] = item.value
    return FrozenDict(changed)


def _mounts(mounts: tuple[Mount, ...], adjust: pb.ContainerAdjustment) -> tuple[tuple[Mount, ...], list[dict[str, Any]]]:
    """The mounts of the spec, and changes of those that only config.json has."""
    kept = {mount.container_path: mount for mount in mounts}
    others: dict[str, dict[str, Any]] = {}
    for item in adjust.mounts:
        destination, mark = removed(item.destination)
        had = kept.pop(destination, None)
        others.pop(destination, None)
        if not mark and (mount := mount_model(item)) is not None:
            kept[destination] = mount
        elif not mark:
            named = {"destination": destination, "type": item.type, "source": item.source, "options": list(item.options)}
            others[destination] = {key: value for key, value in named.items() if value}
        elif had is None:
            others[destination] = {"destination": destination, "remove": True}
    return tuple(kept.values()), list(others.values())


def _resources(limits: Resources, adjust: pb.LinuxContainerAdjustment) -> Resources:
    changed = limits.updated(resources_model(adjust.resources))
    if adjust.HasField("oom_score_adj"):
        changed = attrs.evolve(changed, oom_score_adj=adjust.oom_score_adj.value)
    return changed


def _hooks(hooks: pb.Hooks) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for name, oci_name in _HOOKS.items():
        if items := getattr(hooks, name):
            found[oci_name] = [_hook(item) for item in items]
    return found


def _hook(hook: pb.Hook) -> dict[str, Any]:
    made: dict[str, Any] = {"path": hook.path}
    if hook.args:
        made["args"] = list(hook.args)
    if hook.env:
        made["env"] = list(hook.env)
    if hook.HasField("timeout"):
        made["timeout"] = hook.timeout.value
    return made


def _linux(adjust: pb.LinuxContainerAdjustment) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "devices": [_device(device) for device in adjust.devices],
        "resources": _other_resources(adjust.resources),
        "cgroupsPath": adjust.cgroups_path,
        "namespaces": {removed(item.type)[0]: None if removed(item.type)[1] else item.path for item in adjust.namespaces},
        "sysctl": {removed(key)[0]: None if removed(key)[1] else value for key, value in adjust.sysctl.items()},
        "netDevices": {
            removed(key)[0]: None if removed(key)[1] else {"name": device.name} if device.name else {}
            for key, device in adjust.net_devices.items()
        },
    }
    if adjust.HasField("io_priority"):
        priority = adjust.io_priority
        kind: int = getattr(priority, "class")
        changes["ioPriority"] = {"class": pb.IOPrioClass.Name(kind), "priority": priority.priority}  # type: ignore[arg-type]
    if adjust.HasField("seccomp_policy"):
        changes["seccomp"] = _seccomp(adjust.seccomp_policy)
    if adjust.HasField("scheduler"):
        changes["scheduler"] = _scheduler(adjust.scheduler)
    if adjust.HasField("memory_policy"):
        policy = adjust.memory_policy
        changes["memoryPolicy"] = {
            "mode": pb.MpolMode.Name(policy.mode),
            "nodes": policy.nodes,
            "flags": [pb.MpolFlag.Name(flag) for flag in policy.flags],
        }
    if adjust.resources.HasField("rdt_class"):
        name = adjust.resources.rdt_class.value
        changes["intelRdt"] = {"closID": name} if name else None
    if adjust.HasField("rdt"):
        changes["intelRdt"] = _rdt(adjust.rdt)
    return changes


def _device(device: pb.LinuxDevice) -> dict[str, Any]:
    path, mark = removed(device.path)
    if mark:
        return {"path": path, "remove": True}
    made: dict[str, Any] = {"path": path, "type": device.type, "major": device.major, "minor": device.minor}
    for name, oci_name in (("file_mode", "fileMode"), ("uid", "uid"), ("gid", "gid")):
        if device.HasField(name):  # type: ignore[arg-type]
            made[oci_name] = getattr(device, name).value
    return made


def _other_resources(limits: pb.LinuxResources) -> dict[str, Any]:
    made: dict[str, Any] = {}
    memory = {oci: getattr(limits.memory, name).value for name, oci in _MEMORY.items() if limits.memory.HasField(name)}  # type: ignore[arg-type]
    cpu = {
        oci: getattr(limits.cpu, name).value
        for name, oci in (("realtime_runtime", "realtimeRuntime"), ("realtime_period", "realtimePeriod"))
        if limits.cpu.HasField(name)  # type: ignore[arg-type]
    }
    if memory:
        made["memory"] = memory
    if cpu:
        made["cpu"] = cpu
    if limits.HasField("pids"):
        made["pids"] = {"limit": limits.pids.limit}
    if limits.devices:
        made["devices"] = [_rule(rule) for rule in limits.devices]
    return made


def _rule(rule: pb.LinuxDeviceCgroup) -> dict[str, Any]:
    made: dict[str, Any] = {"allow": rule.allow, "access": rule.access}
    if rule.type:
        made["type"] = rule.type
    for name in ("major", "minor"):
        if rule.HasField(name):
            made[name] = getattr(rule, name).value
    return made


def _seccomp(policy: pb.LinuxSeccomp) -> dict[str, Any]:
    made: dict[str, Any] = {"defaultAction": policy.default_action}
    if policy.HasField("default_errno"):
        made["defaultErrnoRet"] = policy.default_errno.value
    parts = {
        "architectures": list(policy.architectures),
        "flags": list(policy.flags),
        "listenerPath": policy.listener_path,
        "listenerMetadata": policy.listener_metadata,
        "syscalls": [_syscall(item) for item in policy.syscalls],
    }
    return {**made, **{name: value for name, value in parts.items() if value}}


def _syscall(rule: pb.LinuxSyscall) -> dict[str, Any]:
    made: dict[str, Any] = {"names": list(rule.names), "action": rule.action}
    if rule.HasField("errno_ret"):
        made["errnoRet"] = rule.errno_ret.value
    if rule.args:
        made["args"] = [
            {"index": item.index, "value": item.value, "valueTwo": item.value_two, "op": item.op} for item in rule.args
        ]
    return made


def _scheduler(scheduler: pb.LinuxScheduler) -> dict[str, Any]:
    made: dict[str, Any] = {"policy": pb.LinuxSchedulerPolicy.Name(scheduler.policy)}
    for name in ("nice", "priority", "runtime", "deadline", "period"):
        if value := getattr(scheduler, name):
            made[name] = value
    if scheduler.flags:
        made["flags"] = [pb.LinuxSchedulerFlag.Name(flag) for flag in scheduler.flags]
    return made


def _rdt(rdt: pb.LinuxRdt) -> dict[str, Any] | None:
    made: dict[str, Any] = {}
    if rdt.HasField("clos_id"):
        made["closID"] = rdt.clos_id.value
    if rdt.HasField("schemata"):
        made["schemata"] = list(rdt.schemata.value)
    if rdt.HasField("enable_monitoring"):
        made["enableMonitoring"] = rdt.enable_monitoring.value
    return made or None
