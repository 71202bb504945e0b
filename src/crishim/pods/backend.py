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

from crishim.errors import CreateRefused, CrishimError, DataLoss, FailedPrecondition, Internal, NotFound
from crishim.interfaces.backend import Backend, BackendContext, BackendInfo
from crishim.interfaces.capabilities import SupportsSandboxUpdate, SupportsSandboxWait
from crishim.interfaces.oci_runtime import (
    FIRST_PROCESS,
    OciRuntime,
    OciStatus,
    Stdio,
    SupportsLiveness,
    SupportsPrepare,
)
from crishim.interfaces.seats import Rootfs, RootfsProvider
from crishim.linux import pins, processes
from crishim.linux.cgroups import Cgroups, folder_of
from crishim.linux.mounts import unmount_below
from crishim.linux.programs import find_program
from crishim.linux.roots import read_in_root
from crishim.model.container import (
    ContainerCreated,
    ContainerMetadata,
    ContainerSpec,
    ContainerState,
    Inventory,
    ObservedContainer,
)
from crishim.model.process import Exit
from crishim.model.resources import Resources
from crishim.model.sandbox import ObservedSandbox, SandboxSpec, SandboxStarted
from crishim.model.security import LinuxContainerUser, NamespaceMode, UserNamespace
from crishim.model.values import ContainerId, FrozenDict, ImageId, SandboxId
from crishim.oci import cdi
from crishim.oci.facts import BindSource, Host, NamespacePaths, Place
from crishim.oci.resources import cgroups_path
from crishim.oci.spec import config as oci_config
from crishim.oci.users import resolve_user
from crishim.pods import files, sources
from crishim.pods.bundle import delete_bundle, make_bundle, read_config, write_atomically, write_bundle
from crishim.pods.capabilities import RuntimeCapabilities
from crishim.pods.host import device_node
from crishim.pods.pid_namespaces import PidNamespaces, pid_options
from crishim.pods.volumes import make_volumes

_log = logging.getLogger(__name__)

PAUSE: Final = "catatonit"

_EXIT_TIMEOUT: Final = 1.0
"""Seconds for which an inventory waits for the exit of what the runtime calls stopped."""

_STARTING: Final = "starting"
_STARTED: Final = "started-at"
"""Files of a bundle: when its start was asked for; renamed when the runtime has said that it took place."""
_REFUSED: Final = "refused"
"""A file of a bundle with the words in which the runtime has refused to create it."""

_STATES: Final = {
    OciStatus.CREATING: ContainerState.CREATED,
    OciStatus.CREATED: ContainerState.CREATED,
    OciStatus.RUNNING: ContainerState.RUNNING,
    OciStatus.PAUSED: ContainerState.RUNNING,
    OciStatus.STOPPED: ContainerState.EXITED,
}


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
        super().__init__(runtime, host, context.runtime_state / "containers")
        self._sandbox_container = sandbox_container
        self._context = context
        self._pods = context.runtime_state / "sandboxes"
        self._pids = PidNamespaces(self._bundles, self._pods)
        self._cgroups = cgroups or Cgroups(v2=host.cgroup_v2)
        self._stops: dict[SandboxId, asyncio.Event] = {}
        self.capabilities |= {SupportsSandboxWait, SupportsSandboxUpdate}

    async def probe(self) -> BackendInfo:
        """As the runtime's."""
        return await self._runtime.probe()

    async def inventory(self) -> Inventory:
        """Every pod's folder, and every bundle with what the runtime says of it."""
        sandboxes = await asyncio.gather(*(self._observe_pod(folder) for folder in _folders(self._pods)))
        found = await asyncio.gather(*(self._observe(folder) for folder in _folders(self._bundles)))
        return Inventory(sandboxes=tuple(sandboxes), containers=tuple(found))

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        """Make the pod's files, and its pause where the PID namespace is shared."""
        await asyncio.to_thread(files.make, self._pods / spec.id, spec, self._host.hostname)
        if self._sandbox_container or spec.namespaces.pid is NamespaceMode.POD:
            await self._start_pause(spec)
        return SandboxStarted()

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        """End the pause, and let go of what is mounted for the pod."""
        folder = await self._end_pod(sandbox_id)
        (folder / "stopped").touch()
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
        pod = self._pod(spec.sandbox.id)
        bundle = self._bundles / spec.id
        make_bundle(bundle)
        stdio = Stdio(terminal=spec.tty, log_path=spec.log_path, keep_stdin=spec.stdin, stdin_once=spec.stdin_once)
        if isinstance(self._runtime, SupportsPrepare):
            await self._runtime.prepare(spec.id, bundle, stdio)
        namespaces = self._pod_namespaces(spec.sandbox)
        rootfs = await self._roots().prepare(spec.id, spec.image_id, namespaces.user)
        views = await self._views(spec, namespaces.user)
        volumes = await make_volumes(spec, rootfs, bundle, files.files_of(pod, spec.sandbox), namespaces)
        place = await asyncio.to_thread(self._fill_bundle, bundle, spec, pod, rootfs, views, volumes)
        try:
            with self._pids.joined(spec):
                pid = await self._runtime.create(spec.id, bundle, stdio)
        except CreateRefused as refusal:
            await self._refuse_start(bundle, refusal)
        else:
            processes.record(bundle / FIRST_PROCESS, pid)
        return ContainerCreated(user=place.user)

    async def start_container(self, container_id: ContainerId) -> None:
        """The runtime's start."""
        bundle = self._bundle(container_id)
        if refusal := _read(bundle / _REFUSED):
            raise CreateRefused(refusal)
        write_atomically(bundle / _STARTING, str(self._context.clock.now()))
        try:
            await self._runtime.start(container_id)
        except CrishimError:  # a start that is given up may yet take place
            (bundle / _STARTING).unlink(missing_ok=True)
            raise
        (bundle / _STARTING).replace(bundle / _STARTED)

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
        await asyncio.to_thread(self._end_leftovers, bundle)
        return end

    async def remove_container(self, container_id: ContainerId) -> None:
        """The runtime's delete, the root file system, the bundle: as far as each is there."""
        bundle = self._bundles / container_id
        if not bundle.exists():
            await self._release(container_id)
            raise NotFound("container", container_id)
        with contextlib.suppress(NotFound):
            await self._runtime.delete(container_id)
        await self._release(container_id)
        self._pids.forget(bundle)
        await asyncio.to_thread(delete_bundle, bundle)

    async def _refuse_start(self, bundle: Path, refusal: CreateRefused) -> None:
        """Keep why the runtime did not create the container, for its start, and nothing of it in the runtime."""
        write_atomically(bundle / _REFUSED, refusal.message)
        try:
            await self._runtime.delete(bundle.name)
        except NotFound:
            pass
        except CrishimError as error:  # the container's removal tries it again
            _log.warning("what the refused creation of container %s has left is not freed: %s", bundle.name, error)

    async def _observe_pod(self, folder: Path) -> ObservedSandbox:
        pod, pause = SandboxId(folder.name), folder / "pause"
        ready = not (folder / "stopped").exists()
        return ObservedSandbox(id=pod, ready=ready and (not pause.exists() or await self._pause_lives(pod, pause)))

    async def _pause_lives(self, pod: SandboxId, pause: Path) -> bool:
        alive = self._runtime.alive(pod, pause) if isinstance(self._runtime, SupportsLiveness) else None
        if alive is not None:
            return alive
        try:
            return (await self._runtime.state(pod)).status is not OciStatus.STOPPED
        except NotFound:
            return False
        except CrishimError as error:  # whoever waits for it will see its end
            _log.warning("whether the pause of sandbox %s lives is not known: %s", pod, error)
            return True

    async def _observe(self, bundle: Path) -> ObservedContainer:
        container_id = ContainerId(bundle.name)
        sandbox_id = SandboxId(_read(bundle / "sandbox"))
        starting = _read(bundle / _STARTING)
        started_at = int(_read(bundle / _STARTED) or starting or 0) or None
        refused = (bundle / _REFUSED).exists()
        alive = self._runtime.alive(container_id, bundle) if isinstance(self._runtime, SupportsLiveness) else None
        if refused:
            state = ContainerState.CREATED
        elif alive is None or starting:  # of a start that was broken off only the runtime knows whether it took place
            state = await self._state(container_id, started_at)
        elif started_at is None:
            state = ContainerState.CREATED
        else:
            state = ContainerState.RUNNING if alive else ContainerState.EXITED
        end = None
        if state is ContainerState.EXITED and not started_at:
            state = ContainerState.CREATED
        elif state is ContainerState.EXITED:
            try:
                async with asyncio.timeout(_EXIT_TIMEOUT):
                    end = await self._runtime.wait(container_id)
                await asyncio.to_thread(self._end_leftovers, bundle)
            except TimeoutError:
                state = ContainerState.RUNNING  # its end is not complete yet: whoever waits will be told
        return ObservedContainer(id=container_id, sandbox_id=sandbox_id, state=state, started_at=started_at, exit=end)

    async def _state(self, container_id: ContainerId, started_at: int | None) -> ContainerState:
        try:
            return _STATES[(await self._runtime.state(container_id)).status]
        except NotFound:
            return ContainerState.EXITED if started_at else ContainerState.CREATED

    def _end_leftovers(self, bundle: Path) -> None:
        """What a container has started ends with it, also where its PID namespace goes on, as a shared one or the node's."""
        try:
            linux = read_config(bundle).get("linux", {})
        except DataLoss:
            return
        namespaces = linux.get("namespaces", ())
        own = any(namespace["type"] == "pid" and not namespace.get("path") for namespace in namespaces)
        if not own and (path := linux.get("cgroupsPath", "")):
            self._cgroups.kill(folder_of(path))

    def _fill_bundle(
        self,
        bundle: Path,
        spec: ContainerSpec,
        pod: Path,
        rootfs: Rootfs,
        views: Mapping[str, BindSource],
        volumes: FrozenDict[str, str],
    ) -> Place:
        place = attrs.evolve(self._place(spec, pod, rootfs, views), volumes=volumes)
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
        with contextlib.suppress(NotFound):
            await self._runtime.delete(sandbox_id)
        await asyncio.to_thread(unmount_below, folder)
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
        parent = spec.config.linux.cgroup_parent
        place = Place(
            rootfs=str(root),
            user=LinuxContainerUser(0, 0, (0,)),
            namespaces=self._pod_namespaces(spec),
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

    async def _views(self, spec: ContainerSpec, userns: str) -> Mapping[str, BindSource]:
        """The sources of the image volumes, by container path."""
        found = {}
        for mount in spec.mounts:
            if mount.image is not None and mount.image.image:
                root = await self._roots().view(spec.id, ImageId(mount.image.image_ref or mount.image.image), userns)
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


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.exists() else []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
