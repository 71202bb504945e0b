"""OciPodBackend: lifts an OciRuntime to a Backend.

The runtime runs bundles; here is what makes a pod of them: shared files, namespaces, root file systems, config.json. All state
lies below two folders: `runtime_state` (bundles, pods' files; a reboot clears it) and the runtime's own. After a restart of
ours everything is found there.

A pod needs no pause process. One runs (`catatonit -P`) only where its containers share a PID namespace, as its first process,
or where the runtime must be given a container that stands for the pod before any other (`sandbox_container`: gVisor, VMs).
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
    ContainerMetadata,
    ContainerSpec,
    Inventory,
)
from crishim.model.process import Exit
from crishim.model.resources import Resources
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.model.security import LinuxContainerUser, NamespaceMode, UserNamespace
from crishim.model.values import ContainerId, FrozenDict, ImageId, SandboxId
from crishim.oci import cdi
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
from crishim.pods.pid_namespaces import PidNamespaces, pid_options
from crishim.pods.volumes import make_volumes

_log = logging.getLogger(__name__)

PAUSE: Final = "catatonit"

_RELEASE_TIMEOUT: Final = 10.0
"""Seconds for the release of an ended container; a removal waits for it, and does its work if it fails."""


class OciPodBackend(RuntimeCapabilities, Backend, SupportsSandboxWait, SupportsSandboxUpdate):
    """Pods over `runtime`. What it claims beside its own capabilities depends on the runtime's: see `RuntimeCapabilities`."""

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
        """As the runtime's, with what containers get of AppArmor and SELinux."""
        info = await self._runtime.probe()
        return attrs.evolve(info, details=FrozenDict({**info.details, **self._confinement.details()}))

    async def inventory(self) -> Inventory:
        """Every pod's folder, and every bundle with what the runtime says of it. The default AppArmor profile is loaded."""
        await self._confinement.ready()
        self._checkpoints.recover()
        return await self._observer.inventory()

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        """Make the pod's files, and its pause where the PID namespace is shared."""
        await asyncio.to_thread(files.make, self._pods / spec.id, spec, self._host.hostname)
        await self._confinement.label_pod(spec)
        if self._sandbox_container or spec.namespaces.pid is NamespaceMode.POD:
            await self._start_pause(spec)
        return SandboxStarted()

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        """End the pause, and let go of what is mounted for the pod."""
        folder = await self._end_pod(sandbox_id)
        (folder / "stopped").touch()
        await asyncio.to_thread(delete_bundle, folder / "pause")  # with nothing left of it, a removal runs no program
        self._tell_stopped(sandbox_id)

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        """Forget the pod's files."""
        await asyncio.to_thread(delete_bundle, await self._end_pod(sandbox_id))
        self._tell_stopped(sandbox_id)

    async def wait_sandbox(self, sandbox_id: SandboxId) -> Exit:
        """As `SupportsSandboxWait.wait_sandbox`: the end of the pause; of a pod without one, its stop."""
        folder = self._pod(sandbox_id)
        if (folder / "stopped").exists():
            return Exit.unknown()
        if not (folder / "pause").exists():
            await self._stops.setdefault(sandbox_id, asyncio.Event()).wait()
            return Exit.unknown()
        try:
            return await self._runtime.wait(sandbox_id)
        except NotFound:  # a stop has deleted it
            return Exit.unknown()

    async def update_sandbox(self, sandbox_id: SandboxId, overhead: Resources | None, resources: Resources | None) -> None:
        """As `SupportsSandboxUpdate.update_sandbox`: the kubelet has written the pod's cgroup itself."""

    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        """Root file system, user, config.json, and the runtime's create."""
        confinement = await self._confinement.choose(spec)
        bundle = self._bundles / spec.id
        make_bundle(bundle)
        stdio = _stdio(spec)
        if isinstance(self._runtime, SupportsPrepare):
            await self._runtime.prepare(spec.id, bundle, stdio)
        place = await self._furnish(spec, bundle, confinement)
        try:
            with self._pids.joined(spec):
                pid = await self._runtime.create(spec.id, bundle, stdio)
        except CreateRefused as refusal:
            await self._refuse_start(bundle, refusal)
        else:
            processes.record(bundle / FIRST_PROCESS, pid)
        return ContainerCreated(user=place.user)

    async def restore(self, spec: ContainerSpec, path: str) -> ContainerCreated | None:
        """As `SupportsCheckpoint.restore`: all but the processes, which the start brings back."""
        confinement = await self._confinement.choose(spec)
        bundle = self._bundles / spec.id
        make_bundle(bundle)
        await self._checkpoints.unpack(bundle, path, spec, _stdio(spec))
        place = await self._furnish(spec, bundle, confinement)
        return ContainerCreated(user=place.user)

    async def _furnish(self, spec: ContainerSpec, bundle: Path, confinement: tuple[str, Labels]) -> Place:
        """The root file system and all that config.json names, and config.json."""
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
        """The runtime's start; of a container that was made of a checkpoint, its processes' return."""
        bundle = self._bundle(container_id)
        if refusal := read(bundle / REFUSED):
            raise CreateRefused(refusal)
        write_atomically(bundle / STARTING, str(self._context.clock.now()))
        try:
            if not await self._checkpoints.restored(bundle):
                await self._runtime.start(container_id)
        except CrishimError:  # a start that is given up may yet take place
            (bundle / STARTING).unlink(missing_ok=True)
            raise
        (bundle / STARTING).replace(bundle / STARTED)

    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        """The runtime's kill; SIGKILL reaches every process where the container has no PID namespace of its own."""
        self._bundle(container_id)
        await self._runtime.kill(container_id, signal)

    async def wait_container(self, container_id: ContainerId) -> Exit:
        """The runtime's wait. Raises `NotFound` once the bundle is gone."""
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
            _log.warning("container %s is released with its removal: %s", container_id, error or "it takes too long")

    async def remove_container(self, container_id: ContainerId) -> None:
        """The runtime's delete, the root file system, the bundle: as far as each is there."""
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
        """Keep why the runtime did not create the container, for its start, and nothing of it in the runtime."""
        write_atomically(bundle / REFUSED, refusal.message)
        try:
            await self._runtime.delete(bundle.name)
        except NotFound:
            pass
        except CrishimError as error:  # the container's removal tries it again
            _log.warning("what the refused creation of container %s has left is not freed: %s", bundle.name, error)

    def _fill_bundle(
        self,
        bundle: Path,
        spec: ContainerSpec,
        pod: Path,
        rootfs: Rootfs,
        views: Mapping[str, BindSource],
        chosen: Mapping[str, Any],
    ) -> Place:
        """Write config.json; `chosen` are fields of the `Place` that were chosen before."""
        place = attrs.evolve(self._place(spec, pod, rootfs, views), **chosen)
        config = oci_config(spec, self._host, place)
        if names := cdi.wanted(spec.cdi_devices, spec.annotations):
            cdi.inject(config, names, sources.cdi_files(), device_node)
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
        """What every container of the pod joins."""
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
        """What a runtime shall be told, beside the usual, with the container that stands for the pod."""
        return {}

    def _finish_config(self, spec: ContainerSpec, config: dict[str, Any]) -> None:
        """Change a config.json for a runtime that reads it in another way; a pause's id is its sandbox's."""

    async def _end_pod(self, sandbox_id: SandboxId) -> Path:
        """End the pause and let go of the pod's mounts; answers the pod's folder."""
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
        pause = ContainerSpec(
            id=ContainerId(spec.id),
            sandbox=spec,
            metadata=ContainerMetadata(PAUSE),
            image_id=ImageId(PAUSE),
            argv=(f"/{PAUSE}", "-P"),
        )
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
        if place.namespaces.user:  # whoever is root inside makes the places for its mounts
            os.chown(root, place.namespaces.uids[0].host_id, place.namespaces.gids[0].host_id)
        await asyncio.to_thread(shutil.copy2, program, root / PAUSE)
        pid = await self._runtime.create(spec.id, bundle, Stdio())
        process = processes.record(bundle / FIRST_PROCESS, pid)
        if process is not None and spec.namespaces.pid is NamespaceMode.POD and not place.namespaces.pid:
            await asyncio.to_thread(pins.pin, process, "pid", self._pids.of_pod(spec.id))
        await self._runtime.start(spec.id)

    def _roots(self) -> RootfsProvider:
        if self._context.rootfs is None:
            raise Internal("this backend was given nobody to make root file systems")
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

    def _tell_stopped(self, sandbox_id: SandboxId) -> None:
        if (stop := self._stops.pop(sandbox_id, None)) is not None:
            stop.set()

    def _pod(self, sandbox_id: SandboxId) -> Path:
        folder = self._pods / sandbox_id
        if not folder.exists():
            raise NotFound("sandbox", sandbox_id)
        return folder


def _stdio(spec: ContainerSpec) -> Stdio:
    return Stdio(terminal=spec.tty, log_path=spec.log_path, keep_stdin=spec.stdin, stdin_once=spec.stdin_once)
