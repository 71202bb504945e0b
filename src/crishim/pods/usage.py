"""MeasuredPods: an OciPodBackend whose usage is read from the machine's cgroups and network namespaces.

No process is started for it. Values without a counter (bytes of the writable layer, open files) are counted in the background,
at intervals that grow with the cost of counting, and cached. A first count is awaited, up to a limit.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Generic, TypeVar

import attrs

from crishim.errors import DataLoss, FailedPrecondition, NotFound
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.capabilities import SupportsStats
from crishim.interfaces.oci_runtime import OciRuntime, SupportsCgroupUsage
from crishim.interfaces.seats import Clock
from crishim.linux.cgroups import Cgroups, folder_of, read_text, slice_folder
from crishim.linux.namespaces import inside
from crishim.model.container import ContainerCreated, ContainerSpec
from crishim.model.image import FilesystemUsage
from crishim.model.resources import Resources
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.model.stats import CgroupUsage, ContainerUsage, MetricSample, NetworkInterfaceUsage, NetworkUsage, SandboxUsage
from crishim.model.values import ContainerId, SandboxId
from crishim.oci.facts import Host
from crishim.oci.usage import container_usage, parse_cgroup_v1, parse_cgroup_v2, sandbox_usage, sum_usage
from crishim.pods.backend import OciPodBackend
from crishim.pods.bundle import read_config, write_atomically
from crishim.pods.readings import Readings

__all__ = ["MeasuredPods", "cgroup_usage", "network_usage"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

_AGE: Final = 10.0
"""Seconds for which a count is reused at least; the kubelet queries about as often."""

_COST: Final = 50.0
"""After a count that took one second, no other follows for so many seconds."""

_RECENT: Final = 500_000_000
"""Nanoseconds for which the usage that was read for a pod's sum is that of its containers: the time of one list."""

_OF_PODS: Final = frozenset(
    {
        *("cpu.stat", "memory.stat", "memory.current", "memory.max", "pids.current"),
        *("cpu.pressure", "memory.pressure", "io.pressure"),
        *("cpuacct/cpuacct.usage", "memory/memory.stat", "memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes"),
        "pids/pids.current",
    }
)
"""The files of a pod's cgroup that `SandboxUsage` is made of, of both versions; metrics of cgroups are those of containers."""

_MAIN: Final = "eth0"

_TIMEOUT: Final = 0.5
"""Seconds for which a query waits for a first count."""


@attrs.frozen(kw_only=True)
class Counted:
    """Counted values: the writable layer, and metrics."""

    layer: FilesystemUsage | None = None
    metrics: tuple[MetricSample, ...] = ()


class Counts(Generic[T]):
    """Values by id that are expensive to compute: computed in a thread, renewed in the background, cached in between."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cached: dict[str, tuple[T, float]] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def get(self, subject: str, count: Callable[[], T]) -> T | None:
        """The cached value; None while the first count is under way."""
        cached = self._cached.get(subject)
        if (cached is None or self._clock.monotonic() >= cached[1]) and subject not in self._under_way:
            self._under_way[subject] = asyncio.get_running_loop().create_task(self._count(subject, count))
        if cached is None:
            await asyncio.wait({self._under_way[subject]}, timeout=_TIMEOUT)
            cached = self._cached.get(subject)
        return None if cached is None else cached[0]

    def forget(self, subject: str) -> None:
        """Drop the value of an id."""
        if (task := self._under_way.pop(subject, None)) is not None:
            task.cancel()
        self._cached.pop(subject, None)

    async def _count(self, subject: str, count: Callable[[], T]) -> None:
        begun = self._clock.monotonic()
        try:
            value = await asyncio.to_thread(count)
            now = self._clock.monotonic()
            self._cached[subject] = value, now + _AGE + _COST * (now - begun)
        except OSError as error:  # files may disappear during the count
            _log.debug("no count of %s: %s", subject, error)
        finally:
            if self._under_way.get(subject) is asyncio.current_task():
                del self._under_way[subject]


class MeasuredPods(OciPodBackend, SupportsStats):
    """Pods over `runtime`, with usage. A pod's usage is that of its own cgroup if it has one, else the sum of its
    containers.
    """

    def __init__(
        self,
        runtime: OciRuntime,
        context: BackendContext,
        host: Host,
        cgroups: Cgroups | None = None,
        *,
        sandbox_container: bool = False,
    ) -> None:
        super().__init__(runtime, context, host, cgroups, sandbox_container=sandbox_container)
        self.capabilities |= {SupportsStats}
        self._counts: Counts[Counted] = Counts(context.clock)
        self._folders: dict[str, str] = {}
        self._readings = Readings()
        self._read: dict[str, tuple[int, CgroupUsage]] = {}
        """What was read for the sum of a pod, with its time, for the next query of each container."""
        self._members: dict[str, set[str]] | None = None
        """The ids of each pod's containers, by sandbox; None until the first query, which reads all bundles once."""

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        """As `Backend.start_sandbox`; records the network namespace and the cgroup for the pod's usage."""
        started = await super().start_sandbox(spec)
        folder = self._pod(spec.id)
        write_atomically(folder / "cgroup-parent", spec.config.linux.cgroup_parent)
        write_atomically(folder / "netns", "" if spec.host_network else spec.netns)
        return started

    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        """As `Backend.create_container`."""
        created = await super().create_container(spec)
        if self._members is not None:
            self._members.setdefault(spec.sandbox.id, set()).add(spec.id)
        return created

    async def remove_container(self, container_id: ContainerId) -> None:
        """As `Backend.remove_container`."""
        try:
            await super().remove_container(container_id)
        finally:
            self._counts.forget(container_id)
            self._folders.pop(container_id, None)
            self._read.pop(container_id, None)
            for members in () if (self._bundles / container_id).exists() else (self._members or {}).values():
                members.discard(container_id)

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        """As `Backend.remove_sandbox`."""
        await super().remove_sandbox(sandbox_id)
        if self._members is not None:
            self._members.pop(sandbox_id, None)

    async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
        """As `SupportsUpdate.update_container`. Raises `FailedPrecondition` for a memory limit below the current use.

        cgroup v1 refuses it; v2 accepts it, and kills (cgroup-v2, memory.max). Not every runtime has `checkBeforeUpdate`
        (runtime specification 1.1). Inactive file cache counts as free, as in the kubelet's working set.
        """
        limit = resources.memory_limit_in_bytes
        if self._cgroups.v2 and limit > 0:
            used = (await self._usage_of(container_id, self._folder(self._bundle(container_id)))).working_set
            if used is not None and limit < used:
                raise FailedPrecondition(
                    f"using {used} bytes of memory", f"below the new limit of {limit}", f"container {container_id}"
                )
        await super().update_container(container_id, resources)

    async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
        """As `SupportsStats.container_usage`. Values of the cgroup are missing once the container has ended."""
        bundle = self._bundle(container_id)
        folder = self._folder(bundle)
        now, used = await self._recent_usage(container_id, folder)
        counted = await self._counts.get(container_id, lambda: self._count(bundle, folder, now)) or Counted()
        measured = container_usage(used, now)
        return attrs.evolve(measured, writable_layer=counted.layer, metrics=(*measured.metrics, *counted.metrics))

    async def sandbox_usage(self, sandbox_id: SandboxId) -> SandboxUsage:
        """As `SupportsStats.sandbox_usage`."""
        pod = self._pod(sandbox_id)
        folder = self._pod_cgroup(pod)
        if folder or not isinstance(self._runtime, SupportsCgroupUsage):
            parts = {"": folder} if folder else dict(self._known_folders(self._bundles_of(sandbox_id, pod)))
            return await self._readings.get(lambda: self._sandbox_usage(self._sum(parts), pod))
        used = await self._runtime_usage(self._bundles_of(sandbox_id, pod))
        return await self._readings.get(lambda: self._sandbox_usage(used, pod))

    async def _usage_of(self, container_id: ContainerId, folder: str) -> CgroupUsage:
        if isinstance(self._runtime, SupportsCgroupUsage):
            try:
                return await self._runtime.cgroup_usage(container_id)
            except NotFound:  # the container has ended
                return CgroupUsage()
        return await self._readings.get(lambda: cgroup_usage(self._cgroups, folder))

    async def _recent_usage(self, container_id: ContainerId, folder: str) -> tuple[int, CgroupUsage]:
        """The usage of a container and the time of its reading: that for the sum of its pod, if it was just read."""
        now = self._context.clock.now()
        read = self._read.pop(container_id, None)
        if read is not None and 0 <= now - read[0] < _RECENT:
            return read
        return now, await self._usage_of(container_id, folder)

    def _sum(self, parts: Mapping[str, str]) -> CgroupUsage:
        """The usage of some cgroups together, by container; kept for the containers' own usage. Blocks."""
        now = self._context.clock.now()
        if "" in parts:
            return cgroup_usage(self._cgroups, parts[""], _OF_PODS)
        read = {name: (now, cgroup_usage(self._cgroups, folder)) for name, folder in parts.items()}
        self._read.update({name: value for name, value in read.items() if name in self._folders})
        return sum_usage(usage for _, usage in read.values())

    def _sandbox_usage(self, used: CgroupUsage, pod: Path) -> SandboxUsage:
        now = self._context.clock.now()
        usage = sandbox_usage(used, now)
        if netns := read_text(pod / "netns"):
            network, samples = network_usage(netns, now)
            usage = attrs.evolve(usage, network=network, metrics=samples)
        return usage

    def _count(self, bundle: Path, folder: str, now: int) -> Counted:
        return count(self._cgroups, folder, read_text(bundle / "upper"), now)

    async def _runtime_usage(self, bundles: Iterable[Path]) -> CgroupUsage:
        """The sum of what the runtime reports for each bundle."""
        names = [ContainerId(bundle.parent.name if bundle.name == "pause" else bundle.name) for bundle in bundles]
        usages = await asyncio.gather(*(self._usage_of(name, "") for name in names), return_exceptions=True)
        for usage in usages:
            if isinstance(usage, BaseException):
                raise usage
        return sum_usage(usage for usage in usages if isinstance(usage, CgroupUsage))

    def _bundles_of(self, sandbox_id: SandboxId, pod: Path) -> list[Path]:
        """The bundles of a pod's containers, and of its pause container if it has one."""
        bundles = [self._bundles / name for name in self._containers_of(sandbox_id)]
        return [*bundles, pause] if (pause := pod / "pause").exists() else bundles

    def _pod_cgroup(self, pod: Path) -> str:
        """The cgroup folder of a whole pod; empty if it has none."""
        parent = read_text(pod / "cgroup-parent")
        folder = (slice_folder(parent) if self._host.systemd_cgroup else folder_of(parent)) if parent else ""
        return folder if folder and self._cgroups.exists(folder) else ""

    def _folder(self, bundle: Path) -> str:
        """The cgroup folder of a bundle; cached, since it never changes."""
        folder = self._folders.get(bundle.name)
        if folder is None:
            try:
                config = read_config(bundle)
            except DataLoss as error:
                raise NotFound("container", bundle.name) from error
            folder = folder_of(config["linux"]["cgroupsPath"])
            if bundle.parent == self._bundles:
                self._folders[bundle.name] = folder
        return folder

    def _known_folders(self, bundles: Iterable[Path]) -> Iterator[tuple[str, str]]:
        """The cgroups of bundles by name, without those whose config.json is not written yet."""
        for bundle in bundles:
            with contextlib.suppress(NotFound):
                yield bundle.name, self._folder(bundle)

    def _containers_of(self, sandbox_id: SandboxId) -> set[str]:
        if self._members is None:
            self._members = {}
            for bundle in self._bundles.glob("*"):
                self._members.setdefault(read_text(bundle / "sandbox"), set()).add(bundle.name)
        return self._members.get(sandbox_id, set())


def cgroup_usage(cgroups: Cgroups, folder: str, files: Container[str] | None = None) -> CgroupUsage:
    """The usage of a cgroup, by all of its files or some; empty if it does not exist."""
    if not cgroups.exists(folder):
        return CgroupUsage()
    everything = cgroups.reader(folder)

    def read(name: str) -> str:
        return everything(name) if files is None or name in files else ""

    return parse_cgroup_v2(read) if cgroups.v2 else parse_cgroup_v1(read)


def count(cgroups: Cgroups, folder: str, upper: str, now: int) -> Counted:
    """Count open files of a cgroup's processes, and the size of the writable layer at `upper` (empty: none). Blocks.

    Without a cgroup there is no process on this node (containers in a virtual machine), and no file is open.
    """
    metrics = list(open_files(cgroups.pids(folder)))
    if not upper:
        return Counted(metrics=tuple(metrics))
    used, inodes = folder_size(Path(upper))
    layer = FilesystemUsage(timestamp=now, mountpoint=upper, used_bytes=used, inodes_used=inodes)
    fs = os.statvfs(upper)
    for name, value in (
        ("container_fs_limit_bytes", fs.f_blocks * fs.f_frsize),
        ("container_fs_inodes_total", fs.f_files),
        ("container_fs_inodes_free", fs.f_ffree),
    ):
        metrics.append(MetricSample(name=name, value=value, labels=(upper,)))
    return Counted(layer=layer, metrics=tuple(metrics))


def folder_size(folder: Path) -> tuple[int, int]:
    """Bytes on disk and inodes of a folder and everything below it; hard links are counted once."""
    used = 0
    seen: set[int] = set()
    todo = [str(folder)]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_ino not in seen:
                        seen.add(status.st_ino)
                        used += status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:
            continue
    return used, len(seen) + 1


def open_files(pids: list[int]) -> Iterator[MetricSample]:
    """The number of descriptors of processes, and of sockets among them. Reads every descriptor's link."""
    descriptors = sockets = 0
    for pid in pids:
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                descriptors += 1
                sockets += str(link.readlink()).startswith("socket:")
        except OSError:
            continue
    yield MetricSample(name="container_file_descriptors", value=descriptors)
    yield MetricSample(name="container_sockets", value=sockets)


def network_usage(netns: str, now: int) -> tuple[NetworkUsage, tuple[MetricSample, ...]]:
    """Counters of the interfaces of the network namespace at a path, read at `now` (nanoseconds since the epoch), and further
    ones as metrics. Blocks. Raises `NotFound` if the namespace does not exist.
    """
    return network_of(inside(netns, lambda: read_text(Path("/proc/thread-self/net/dev"))), now)


def network_of(text: str, now: int) -> tuple[NetworkUsage, tuple[MetricSample, ...]]:
    """Parse /proc/net/dev: the interfaces but `lo`, and as metrics the counters that CRI's network usage lacks."""
    interfaces, samples = [], []
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        name, values = name.strip(), [int(value) for value in rest.split()]
        if name == "lo" or len(values) < 12:
            continue
        interfaces.append(
            NetworkInterfaceUsage(name=name, rx_bytes=values[0], rx_errors=values[2], tx_bytes=values[8], tx_errors=values[10])
        )
        for metric, value in (
            ("container_network_receive_packets_total", values[1]),
            ("container_network_receive_packets_dropped_total", values[3]),
            ("container_network_transmit_packets_total", values[9]),
            ("container_network_transmit_packets_dropped_total", values[11]),
        ):
            samples.append(MetricSample(name=metric, value=value, labels=(name,)))
    interfaces.sort(key=lambda interface: interface.name != _MAIN)
    default = interfaces[0] if interfaces else None
    return NetworkUsage(timestamp=now, default_interface=default, interfaces=tuple(interfaces)), tuple(samples)
