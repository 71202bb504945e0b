"""OciPodBackend: lifts an OciRuntime to a Backend.

The runtime runs bundles; this module creates the rest of a pod: shared files, namespaces, root file systems, config.json. All
state is in two folders: `runtime_state` (bundles and files of pods; cleared by a reboot) and the runtime's own. A restarted
process resumes from them.

A pod needs no pause process. One runs (`catatonit -P`) only if its containers share a PID namespace, as the first process of
it, or if the runtime requires a container that stands for the pod before any other (`sandbox_container`: gVisor, VMs).
"""

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import CreateRefused, CrishimError, FailedPrecondition, Internal, NotFound
from crishim.interfaces.backend import Backend, BackendContext, BackendInfo
from crishim.interfaces.capabilities import SupportsSandboxUpdate, SupportsSandboxWait
from crishim.interfaces.oci_runtime import (
    FIRST_PROCESS,
    OciRuntime,
    Stdio,
    SupportsPrepare,
    SupportsRelease,
)
from crishim.interfaces.seats import Rootfs, RootfsProvider
from crishim.linux import pins, processes
from crishim.linux.cgroups import Cgroups
from crishim.linux.mounts import unmount_entries
from crishim.linux.programs import find_program
from crishim.linux.roots import read_in_root
from crishim.model.container import (
    ContainerCreated,
    ContainerSpec,
    Inventory,
)
from crishim.model.process import Exit
from crishim.model.resources import Resources
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.model.security import LinuxContainerUser, NamespaceMode, UserNamespace
from crishim.model.values import ContainerId, FrozenDict, ImageId, SandboxId
from crishim.oci import cdi
from crishim.oci.changes import apply_changes
from crishim.oci.facts import BindSource, Host, Labels, NamespacePaths, Place
from crishim.oci.resources import cgroups_path
from crishim.oci.spec import config as oci_config
from crishim.oci.users import resolve_user
from crishim.pods import files, sources
from crishim.pods.bundle import delete_bundle, make_bundle, write_atomically, write_bundle
from crishim.pods.capabilities import RuntimeCapabilities
from crishim.pods.confinement import Confinement
from crishim.pods.host import device_node
from crishim.pods.observer import REFUSED, STARTED, STARTING, PodObserver, read
from crishim.pods.pause import PAUSE, pause_spec
from crishim.pods.pid_namespaces import PidNamespaces, pid_options
from crishim.pods.volumes import make_volumes

__all__ = ["OciPodBackend"]

_log = logging.getLogger(__name__)


_RELEASE_TIMEOUT: Final = 10.0
"""The timeout of the release of an ended container, in seconds; the removal waits for it, and releases the state if it failed.
"""


class OciPodBackend(RuntimeCapabilities, Backend, SupportsSandboxWait, SupportsSandboxUpdate):
    """Pods over `runtime`. Its capabilities beside its own depend on those of the runtime: see `RuntimeCapabilities`."""

    def __init__(
        self,
        runtime: OciRuntime,
        context: BackendContext,
        host: Host,
        cgroups: Cgroups | None = None,
        *,
        sandbox_container: bool = False,
    ) -> None:
        super().__init__(runtime, host, context.runtime_state / "containers", context)
        self._sandbox_container = sandbox_container
        self._pods = context.runtime_state / "sandboxes"
        self._pids = PidNamespaces(self._bundles, self._pods)
        self._cgroups = cgroups or Cgroups(v2=host.cgroup_v2)
        self._confinement = Confinement(host, self._pods)
        self._observer = PodObserver(runtime, self._bundles, self._pods, self._cgroups)
        self._releases: dict[ContainerId, asyncio.Task[None]] = {}
        self._stops: dict[SandboxId, asyncio.Event] = {}
        self.capabilities |= {SupportsSandboxWait, SupportsSandboxUpdate}

    async def probe(self) -> BackendInfo:
        """The runtime's probe, with the containers' AppArmor and SELinux settings."""
        info = await self._runtime.probe()
        return attrs.evolve(info, details=FrozenDict({**info.details, **self._confinement.details()}))

    async def inventory(self) -> Inventory:
        """Each pod's folder, and each bundle with the runtime's state of it. The default AppArmor profile is loaded first."""
        await self._confinement.ready()
        self._checkpoints.recover()
        return await self._observer.inventory()

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        """Create the pod's files, and start its pause process if the PID namespace is shared."""
        await asyncio.to_thread(files.make, self._pods / spec.id, spec, self._host.hostname)
        await self._confinement.label_pod(spec)
        if self._sandbox_container or spec.namespaces.pid is NamespaceMode.POD:
            await self._start_pause(spec)
        return SandboxStarted()

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        """Stop the pause process and unmount what is mounted for the pod."""
        folder = await self._end_pod(sandbox_id)
        (folder / "stopped").touch()
        await asyncio.to_thread(delete_bundle, folder / "pause")  # so that the removal does not call the runtime
        self._notify_stopped(sandbox_id)

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        """Delete the pod's files."""
        await asyncio.to_thread(delete_bundle, await self._end_pod(sandbox_id))
        self._notify_stopped(sandbox_id)

    async def wait_sandbox(self, sandbox_id: SandboxId) -> Exit:
        """As `SupportsSandboxWait.wait_sandbox`: waits for the pause process, or without one for the stop of the pod."""
        folder = self._pod(sandbox_id)
        if (folder / "stopped").exists():
            return Exit.unknown()
        if not (folder / "pause").exists():
            await self._stops.setdefault(sandbox_id, asyncio.Event()).wait()
            return Exit.unknown()
        try:
            return await self._runtime.wait(sandbox_id)
        except NotFound:  # deleted by a stop
            return Exit.unknown()

    async def update_sandbox(self, sandbox_id: SandboxId, overhead: Resources | None, resources: Resources | None) -> None:
        """As `SupportsSandboxUpdate.update_sandbox`. Nothing to do: the kubelet has written the cgroup of the pod itself."""

    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        """Prepare the root file system, resolve the user, write config.json, and call the runtime's create."""
        confinement = await self._confinement.choose(spec)
        bundle = self._bundles / spec.id
        make_bundle(bundle)
        stdio = _stdio(spec)
        if isinstance(self._runtime, SupportsPrepare):
            await self._runtime.prepare(spec.id, bundle, stdio)
        place = await self._prepare(spec, bundle, confinement)
        try:
            with self._pids.joined(spec):
                pid = await self._runtime.create(spec.id, bundle, stdio)
        except CreateRefused as refusal:
            await self._refuse_start(bundle, refusal)
        else:
            processes.record(bundle / FIRST_PROCESS, pid)
        return ContainerCreated(user=place.user)

    async def restore(self, spec: ContainerSpec, path: str) -> ContainerCreated | None:
        """As `SupportsCheckpoint.restore`: creates all but the processes, which the start restores."""
        confinement = await self._confinement.choose(spec)
        bundle = self._bundles / spec.id
        make_bundle(bundle)
        await self._checkpoints.unpack(bundle, path, spec, _stdio(spec))
        place = await self._prepare(spec, bundle, confinement)
        return ContainerCreated(user=place.user)

    async def _prepare(self, spec: ContainerSpec, bundle: Path, confinement: tuple[str, Labels]) -> Place:
        """Prepare the root file system and everything that config.json refers to, and write config.json."""
        pod = self._pod(spec.sandbox.id)
        apparmor, labels = confinement
        namespaces = self._pod_namespaces(spec.sandbox)
        rootfs = await self._roots().prepare(spec.id, spec.image_id, namespaces.user, labels.mounts)
        views = await self._views(spec, namespaces.user, labels.mounts)
        volumes = await make_volumes(spec, rootfs, bundle, files.files_of(pod, spec.sandbox), namespaces)
        chosen = {"volumes": volumes, "apparmor": apparmor, "labels": labels}
        place = await asyncio.to_thread(self._fill_bundle, bundle, spec, pod, rootfs, views, chosen)
        await self._confinement.relabel(spec, labels, volumes.values())
        return place

    async def start_container(self, container_id: ContainerId) -> None:
        """Call the runtime's start; for a container created from a checkpoint, restore its processes."""
        bundle = self._bundle(container_id)
        if refusal := read(bundle / REFUSED):
            raise CreateRefused(refusal)
        write_atomically(bundle / STARTING, str(self._context.clock.now()))
        try:
            if not await self._checkpoints.restored(bundle):
                await self._runtime.start(container_id)
        except CrishimError:  # an abandoned start may still succeed
            (bundle / STARTING).unlink(missing_ok=True)
            raise
        (bundle / STARTING).replace(bundle / STARTED)

    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        """Call the runtime's kill; SIGKILL goes to all processes of a container without a PID namespace of its own."""
        self._bundle(container_id)
        await self._runtime.kill(container_id, signal)

    async def wait_container(self, container_id: ContainerId) -> Exit:
        """The runtime's wait. Raises `NotFound` once the bundle is deleted."""
        bundle = self._bundle(container_id)
        end = await self._runtime.wait(container_id)
        if not bundle.exists():
            raise NotFound("container", container_id)
        await asyncio.to_thread(self._observer.end_leftovers, bundle)
        if isinstance(self._runtime, SupportsRelease) and container_id not in self._releases:
            releasing = asyncio.create_task(self._release_state(self._runtime, container_id), name=f"release of {container_id}")
            self._releases[container_id] = releasing
            releasing.add_done_callback(lambda _: self._releases.pop(container_id, None))
        return end

    async def _release_state(self, runtime: SupportsRelease, container_id: ContainerId) -> None:
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await runtime.release(container_id)
        except (CrishimError, OSError, TimeoutError) as error:
            _log.warning("container %s will be released by its removal: %s", container_id, error or "timeout")

    async def remove_container(self, container_id: ContainerId) -> None:
        """The runtime's delete, then the root file system and the bundle; each step does nothing if its object does not
        exist.
        """
        bundle = self._bundles / container_id
        if not bundle.exists():
            await self._release(container_id)
            raise NotFound("container", container_id)
        if (releasing := self._releases.get(container_id)) is not None:
            await asyncio.wait({releasing})
        with contextlib.suppress(NotFound):
            await self._runtime.delete(container_id)
        await self._release(container_id)
        self._pids.forget(bundle)
        await asyncio.to_thread(delete_bundle, bundle)

    async def _refuse_start(self, bundle: Path, refusal: CreateRefused) -> None:
        """Record the runtime's reason, which the start will raise, and delete what the runtime has of the container."""
        write_atomically(bundle / REFUSED, refusal.message)
        try:
            await self._runtime.delete(bundle.name)
        except NotFound:
            pass
        except CrishimError as error:  # retried by the removal of the container
            _log.warning("leftovers of the refused creation of container %s are not freed: %s", bundle.name, error)

    def _fill_bundle(
        self,
        bundle: Path,
        spec: ContainerSpec,
        pod: Path,
        rootfs: Rootfs,
        views: Mapping[str, BindSource],
        chosen: Mapping[str, Any],
    ) -> Place:
        """Write config.json; `chosen`: fields of the `Place` that are known already."""
        place = attrs.evolve(self._place(spec, pod, rootfs, views), **chosen)
        config = oci_config(spec, self._host, place)
        if names := cdi.wanted(spec.cdi_devices, spec.annotations):
            cdi.inject(config, names, sources.cdi_files(), device_node)
        apply_changes(config, spec.oci_changes)
        self._finish_config(spec, config)
        write_bundle(bundle, config, spec.log_path)
        write_atomically(bundle / "sandbox", spec.sandbox.id)
        write_atomically(bundle / "upper", rootfs.upper)
        return place

    def _place(self, spec: ContainerSpec, pod: Path, rootfs: Rootfs, views: Mapping[str, BindSource]) -> Place:
        root = Path(rootfs.path)
        user = resolve_user(spec.user, read_in_root(root, "/etc/passwd"), read_in_root(root, "/etc/group"))
        systemd = self._host.systemd_cgroup
        return Place(
            rootfs=rootfs.path,
            user=user,
            namespaces=self._namespaces(spec),
            files=files.files_of(pod, spec.sandbox),
            devices=sources.devices(spec),
            sources=FrozenDict({**sources.bind_sources(spec), **views}),
            profiles=sources.profiles(spec),
            cgroups_path=cgroups_path(spec.sandbox.config.linux.cgroup_parent, spec.id, systemd=systemd),
        )

    def _namespaces(self, spec: ContainerSpec) -> NamespacePaths:
        paths = self._pod_namespaces(spec.sandbox)
        return attrs.evolve(paths, pid=self._pids.path(spec) or paths.pid, host_pid=pid_options(spec).pid is NamespaceMode.NODE)

    def _pod_namespaces(self, spec: SandboxSpec) -> NamespacePaths:
        """The namespaces that every container of the pod joins."""
        pins = self._context.namespaces
        userns = spec.namespaces.userns_options or UserNamespace(NamespaceMode.NODE)
        return NamespacePaths(
            network=spec.netns,
            ipc=pins.path(spec.id, "ipc") if pins else "",
            uts=pins.path(spec.id, "uts") if pins else "",
            user=pins.path(spec.id, "user") if pins else "",
            uids=userns.uids,
            gids=userns.gids,
        )

    def _sandbox_annotations(self, _spec: SandboxSpec) -> Mapping[str, str]:
        """Further annotations for the container that stands for the pod; for backends whose runtime reads some."""
        return {}

    def _finish_config(self, spec: ContainerSpec, config: dict[str, Any]) -> None:
        """Adapt config.json to the runtime; for a subclass. A pause container has the id of its sandbox."""

    async def _end_pod(self, sandbox_id: SandboxId) -> Path:
        """Stop the pause process and unmount the pod's mounts. Returns the pod's folder."""
        folder = self._pod(sandbox_id)
        pause = folder / "pause"
        if self._sandbox_container or pause.exists():
            with contextlib.suppress(NotFound):
                await self._runtime.delete(sandbox_id)
        for place in (pause, folder):
            if place.exists():
                await asyncio.to_thread(unmount_entries, place)
        return folder

    async def _start_pause(self, spec: SandboxSpec) -> None:
        if not (program := find_program(PAUSE)):
            raise FailedPrecondition("missing", "installed", f"{PAUSE}, which a shared PID namespace needs")
        bundle = self._pods / spec.id / "pause"
        root = bundle / "rootfs"
        pause = pause_spec(spec)
        apparmor, labels = await self._confinement.choose(pause)
        parent = spec.config.linux.cgroup_parent
        place = Place(
            rootfs=str(root),
            user=LinuxContainerUser(0, 0, (0,)),
            namespaces=self._pod_namespaces(spec),
            apparmor=apparmor,
            labels=labels,
            cgroups_path=cgroups_path(parent, spec.id, systemd=self._host.systemd_cgroup),
            annotations=FrozenDict({"io.kubernetes.cri.container-type": "sandbox", **self._sandbox_annotations(spec)}),
        )
        make_bundle(bundle)
        config = oci_config(pause, self._host, place)
        self._finish_config(pause, config)
        await asyncio.to_thread(write_bundle, bundle, config, "")
        root.mkdir()
        if place.namespaces.user:  # the root user inside creates the mount points
            os.chown(root, place.namespaces.uids[0].host_id, place.namespaces.gids[0].host_id)
        await asyncio.to_thread(shutil.copy, program, root / PAUSE)
        await self._confinement.relabel(pause, labels, (str(root),))
        pid = await self._runtime.create(spec.id, bundle, Stdio())
        process = processes.record(bundle / FIRST_PROCESS, pid)
        if process is not None and spec.namespaces.pid is NamespaceMode.POD and not place.namespaces.pid:
            await asyncio.to_thread(pins.pin, process, "pid", self._pids.of_pod(spec.id))
        await self._runtime.start(spec.id)

    def _roots(self) -> RootfsProvider:
        if self._context.rootfs is None:
            raise Internal("this backend has no RootfsProvider")
        return self._context.rootfs

    async def _views(self, spec: ContainerSpec, userns: str, label: str) -> Mapping[str, BindSource]:
        """The sources of the image volumes, by container path."""
        found = {}
        for mount in spec.mounts:
            if mount.image is not None and mount.image.image:
                image_id = ImageId(mount.image.image_ref or mount.image.image)
                root = await self._roots().view(spec.id, image_id, userns, label)
                found[mount.container_path] = sources.image_source(root, mount.image_sub_path)
        return found

    async def _release(self, container_id: ContainerId) -> None:
        if self._context.rootfs is not None:
            await self._context.rootfs.release(container_id)

    def _notify_stopped(self, sandbox_id: SandboxId) -> None:
        if (stop := self._stops.pop(sandbox_id, None)) is not None:
            stop.set()

    def _pod(self, sandbox_id: SandboxId) -> Path:
        folder = self._pods / sandbox_id
        if not folder.exists():
            raise NotFound("sandbox", sandbox_id)
        return folder


def _stdio(spec: ContainerSpec) -> Stdio:
    return Stdio(terminal=spec.tty, log_path=spec.log_path, keep_stdin=spec.stdin, stdin_once=spec.stdin_once)
