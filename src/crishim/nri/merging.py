"""Merges what several plugins request for one container (pure).

Plugins are called in the order of their indices, each with the container as those before it have adjusted it. Two that set the
same field conflict, unless the second removes what the first has set. The rules are those of NRI's adaptation (pkg/adaptation,
result.go; docs in its README, "Conflicts").
"""

from collections.abc import Callable, Iterable, MutableSequence
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from crishim._proto import nri_pb2 as pb
from crishim.errors import Unknown

_MEMORY: Final = {
    "limit": pb.MemLimit,
    "reservation": pb.MemReservation,
    "swap": pb.MemSwapLimit,
    "kernel": pb.MemKernelLimit,
    "kernel_tcp": pb.MemTCPLimit,
    "swappiness": pb.MemSwappiness,
    "disable_oom_killer": pb.MemDisableOomKiller,
    "use_hierarchy": pb.MemUseHierarchy,
}
_CPU: Final = {
    "shares": pb.CPUShares,
    "quota": pb.CPUQuota,
    "period": pb.CPUPeriod,
    "realtime_runtime": pb.CPURealtimeRuntime,
    "realtime_period": pb.CPURealtimePeriod,
}
_CPUSETS: Final = {"cpus": pb.CPUSetCPUs, "mems": pb.CPUSetMems}
_CLASSES: Final = {"blockio_class": pb.BlockioClass, "rdt_class": pb.RdtClass, "pids": pb.PidsLimit}
_SIMPLE: Final = {
    "oom_score_adj": pb.OomScoreAdj,
    "io_priority": pb.IoPriority,
    "seccomp_policy": pb.SeccompPolicy,
    "scheduler": pb.LinuxSched,
    "memory_policy": pb.MemoryPolicy,
}
_RDT: Final = {"clos_id": pb.RdtClosID, "schemata": pb.RdtSchemata, "enable_monitoring": pb.RdtEnableMonitoring}
_HOOKS: Final = ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")

M = TypeVar("M", bound=Message)


def removed(key: str) -> tuple[str, bool]:
    """A key without its mark of removal, and whether it has one."""
    return (key[1:], True) if key.startswith("-") else (key, False)


class Owners:
    """Which plugin has set which field of which container."""

    def __init__(self) -> None:
        self.message = pb.OwningPlugins()

    def claim(self, container_id: str, field: "pb.Field.ValueType", plugin: str, key: str | None = None) -> None:
        """Note that a plugin sets a field, or the entry `key` of it. Raises `Unknown` if another one has set it."""
        fields = self.message.owners[container_id]
        owners: Any = fields.simple if key is None else fields.compound[field].owners
        entry: Any = field if key is None else key
        if owners.get(entry, plugin) != plugin:
            what = pb.Field.Name(field) + (f" {key}" if key is not None else "")
            raise Unknown(f"NRI plugins {owners[entry]} and {plugin} both set {what} of container {container_id}")
        owners[entry] = plugin

    def clear(self, container_id: str, field: "pb.Field.ValueType", key: str | None = None) -> None:
        """Note that what was set has been removed."""
        fields = self.message.owners[container_id]
        owners: Any = fields.simple if key is None else fields.compound[field].owners
        owners.pop(field if key is None else key, None)


class MergedUpdates:
    """The updates that plugins request of containers. `changed` is the container of an update under way, with its change,
    which each plugin sees as those before it have made it.
    """

    def __init__(self, owners: Owners, created: str = "", changed: pb.UpdateContainerRequest | None = None) -> None:
        self._owners = owners
        self._created = created
        self._changed = changed
        self.by_container: dict[str, pb.ContainerUpdate] = {}

    def add(self, updates: Iterable[pb.ContainerUpdate], plugin: str) -> None:
        """Add one plugin's updates. Raises `Unknown` for a conflict in one whose failure is not to be ignored."""
        for update in updates:
            container_id = update.container_id
            if container_id == self._created:
                raise Unknown(f"NRI plugin {plugin} updates container {container_id}, which it may only adjust")
            merged = self.by_container.get(container_id)
            if merged is None:
                merged = pb.ContainerUpdate(container_id=container_id, ignore_failure=update.ignore_failure)
            merged.ignore_failure = merged.ignore_failure and update.ignore_failure
            own = self._changed is not None and self._changed.container.id == container_id
            target = self._changed.linux_resources if own and self._changed is not None else merged.linux.resources
            copy = pb.LinuxResources()
            copy.CopyFrom(target)
            try:
                merge_resources(update.linux.resources, (copy,), self._owners, container_id, plugin)
            except Unknown:
                if not update.ignore_failure:
                    raise
                continue
            target.CopyFrom(copy)
            if not own:
                self.by_container[container_id] = merged


class MergedCreation:
    """The adjustments of a container to be created.

    `request` is what the next plugin receives, adjusted so far; `adjustment` and `updates` are the result.
    """

    def __init__(self, request: pb.CreateContainerRequest) -> None:
        self.request = request
        self.adjustment = pb.ContainerAdjustment()
        self.owners = Owners()
        self.updates = MergedUpdates(self.owners, created=request.container.id)

    def add(self, response: pb.CreateContainerResponse, plugin: str) -> None:
        """Add one plugin's response. Raises `Unknown` for a conflict."""
        self._adjust(response.adjust, plugin)
        self.updates.add(response.update, plugin)

    def _adjust(self, adjust: pb.ContainerAdjustment, plugin: str) -> None:
        container, merged = self.request.container, self.adjustment
        self._map(adjust.annotations, merged.annotations, container.annotations, pb.Annotations, plugin)
        self._list(adjust.mounts, merged.mounts, container.mounts, "destination", pb.Mounts, plugin)
        self._env(adjust.env, plugin)
        self._args(list(adjust.args), plugin)
        for name in _HOOKS:
            if hooks := getattr(adjust.hooks, name):
                getattr(merged.hooks, name).extend(hooks)
                getattr(container.hooks, name).extend(hooks)
        for limit in adjust.rlimits:
            self.owners.claim(container.id, pb.Rlimits, plugin, limit.type)
        merged.rlimits.extend(adjust.rlimits)
        container.rlimits.extend(adjust.rlimits)
        for device in adjust.CDI_devices:
            if device.name in {known.name for known in merged.CDI_devices}:
                raise Unknown(f"NRI plugin {plugin} adds the CDI device {device.name}, which another one has added")
            self.owners.claim(container.id, pb.CdiDevices, plugin, device.name)
        merged.CDI_devices.extend(adjust.CDI_devices)
        if adjust.HasField("linux"):
            self._adjust_linux(adjust.linux, plugin)

    def _adjust_linux(self, adjust: pb.LinuxContainerAdjustment, plugin: str) -> None:
        container, merged = self.request.container, self.adjustment.linux
        seen = container.linux
        self._list(adjust.devices, merged.devices, seen.devices, "path", pb.Devices, plugin)
        merge_resources(adjust.resources, (merged.resources, seen.resources), self.owners, container.id, plugin)
        for rule in adjust.resources.devices:
            merged.resources.devices.append(rule)
            seen.resources.devices.append(rule)
        if adjust.cgroups_path:
            self.owners.claim(container.id, pb.CgroupsPath, plugin)
            merged.cgroups_path = seen.cgroups_path = adjust.cgroups_path
        for name, field in _SIMPLE.items():
            if adjust.HasField(name):  # type: ignore[arg-type]
                self.owners.claim(container.id, field, plugin)
                getattr(merged, name).CopyFrom(getattr(adjust, name))
                if name != "memory_policy":
                    getattr(seen, name).CopyFrom(getattr(adjust, name))
        self._namespaces(adjust.namespaces, plugin)
        self._map(adjust.sysctl, merged.sysctl, seen.sysctl, pb.Sysctl, plugin)
        self._map(adjust.net_devices, merged.net_devices, seen.net_devices, pb.LinuxNetDevices, plugin)
        if adjust.HasField("rdt"):
            self._rdt(adjust.rdt, plugin)

    def _map(self, adjust: Any, merged: Any, seen: Any, field: "pb.Field.ValueType", plugin: str) -> None:
        """Adjust a map, of texts or of messages."""

        def put(target: Any, key: str, value: Any) -> None:
            if isinstance(value, Message):
                target[key].CopyFrom(value)
            else:
                target[key] = value

        container_id = self.request.container.id
        gone = {key for key, mark in map(removed, adjust) if mark}
        for key in gone:
            self.owners.clear(container_id, field, key)
            seen.pop(key, None)
            merged.pop(key, None)
            put(merged, f"-{key}", next(value for name, value in adjust.items() if name == f"-{key}"))
        for name, value in adjust.items():
            key, mark = removed(name)
            if not mark:
                self.owners.claim(container_id, field, plugin, key)
                put(seen, key, value)
                put(merged, key, value)

    def _list(
        self,
        adjust: Iterable[M],
        merged: MutableSequence[M],
        seen: MutableSequence[M],
        key_name: str,
        field: "pb.Field.ValueType",
        plugin: str,
    ) -> None:
        """Adjust a list of messages with a key."""
        container_id = self.request.container.id

        def key_of(item: M) -> str:
            return removed(getattr(item, key_name))[0]

        items = list(adjust)
        gone = {key_of(item) for item in items if removed(getattr(item, key_name))[1]}
        added = [item for item in items if not removed(getattr(item, key_name))[1]]
        for key in gone:
            self.owners.clear(container_id, field, key)
        _drop(merged, lambda item: key_of(item) in gone)
        _drop(seen, lambda item: key_of(item) in gone | {key_of(item) for item in added})
        for item in items:
            if removed(getattr(item, key_name))[1]:
                merged.append(item)
        for item in added:
            self.owners.claim(container_id, field, plugin, key_of(item))
            merged.append(item)
            seen.append(item)

    def _env(self, adjust: Iterable[pb.KeyValue], plugin: str) -> None:
        seen: list[pb.KeyValue] = []
        self._list(adjust, self.adjustment.env, seen, "key", pb.Env, plugin)
        changed = {removed(item.key)[0] for item in adjust}
        container = self.request.container
        rest = [variable for variable in container.env if variable.partition("=")[0] not in changed]
        container.env[:] = [*rest, *(f"{item.key}={item.value}" for item in seen)]

    def _args(self, args: list[str], plugin: str) -> None:
        if not args:
            return
        container_id = self.request.container.id
        if not args[0]:
            self.owners.clear(container_id, pb.Args)
            args = args[1:]
        self.owners.claim(container_id, pb.Args, plugin)
        self.adjustment.args[:] = args
        self.request.container.args[:] = args

    def _namespaces(self, adjust: Iterable[pb.LinuxNamespace], plugin: str) -> None:
        seen = self.request.container.linux.namespaces
        for namespace in adjust:
            kind, mark = removed(namespace.type)
            self.owners.claim(self.request.container.id, pb.Namespace, plugin, kind)
            self.adjustment.linux.namespaces.append(namespace)
            _drop(seen, lambda item, kind=kind: item.type == kind)  # type: ignore[misc]
            if not mark:
                seen.append(namespace)

    def _rdt(self, adjust: pb.LinuxRdt, plugin: str) -> None:
        container_id, merged = self.request.container.id, self.adjustment.linux.rdt
        if adjust.remove:
            for field in _RDT.values():
                self.owners.clear(container_id, field)
            merged.Clear()
            merged.remove = True
        for name, field in _RDT.items():
            if adjust.HasField(name):  # type: ignore[arg-type]
                self.owners.claim(container_id, field, plugin)
                getattr(merged, name).CopyFrom(getattr(adjust, name))


def merge_resources(
    change: pb.LinuxResources, targets: tuple[pb.LinuxResources, ...], owners: Owners, container_id: str, plugin: str
) -> None:
    """Set what `change` sets in each of `targets`. Raises `Unknown` for a conflict; then some of it may be set."""
    for part, fields in (("memory", _MEMORY), ("cpu", _CPU), ("", _CLASSES)):
        source: Any = getattr(change, part) if part else change
        for name, field in fields.items():
            if source.HasField(name):
                owners.claim(container_id, field, plugin)
                for target in targets:
                    getattr(getattr(target, part) if part else target, name).CopyFrom(getattr(source, name))
    for name, field in _CPUSETS.items():
        if value := getattr(change.cpu, name):
            owners.claim(container_id, field, plugin)
            for target in targets:
                setattr(target.cpu, name, value)
    for limit in change.hugepage_limits:
        owners.claim(container_id, pb.HugepageLimits, plugin, limit.page_size)
        for target in targets:
            target.hugepage_limits.append(limit)
    for key, value in change.unified.items():
        owners.claim(container_id, pb.CgroupsUnified, plugin, key)
        for target in targets:
            target.unified[key] = value


def _drop(items: MutableSequence[M], unwanted: Callable[[M], bool]) -> None:
    for index in reversed(range(len(items))):
        if unwanted(items[index]):
            del items[index]
