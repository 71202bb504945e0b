"""The runtime's side of NRI: accepts and starts plugins, and calls them in the order of their indices.

A plugin takes part from the moment in which it is registered. What exists then is sent to it as its synchronization, together
with what is being created and has passed the plugins already; every later event waits for the end of the synchronization. So
no pod or container is missed, and none is created without a plugin that knows of it.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from google.protobuf.message import Message

from crishim._proto import nri_pb2 as pb
from crishim.errors import CrishimError, InvalidArgument, NotFound, Unknown
from crishim.interfaces.seats import LifecycleHost, LifecyclePlugins
from crishim.linux.children import children
from crishim.linux.sockets import is_served
from crishim.model.container import ContainerSpec
from crishim.model.lifecycle import ContainerView, LifecyclePoint, PodView
from crishim.model.resources import Resources
from crishim.model.values import ContainerId
from crishim.nri.adjustments import adjusted
from crishim.nri.connection import SOCKET, PluginConnection, TimeLimits, split_file_name
from crishim.nri.convert import (
    CgroupSetup,
    container_message,
    other_limits,
    pod_message,
    resources_message,
    resources_model,
    with_adjustments,
)
from crishim.nri.merging import MergedCreation, MergedUpdates, Owners

__all__ = ["NodeResourceInterface", "NriSettings"]

PLUGINS: Final = Path("/opt/nri/plugins")
CONFIGURATIONS: Final = Path("/etc/nri/conf.d")

_ACCEPT_PAUSE: Final = 1.0
"""Seconds after a connection that could not be accepted."""

_log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class NriSettings:
    """Where plugins connect, from which folder they are started and configured, and their time limits.

    Without a `socket`, none may connect. `cgroups` must be the node's: plugins see mounts and cgroup paths by it.
    """

    socket: Path | None = Path(SOCKET)
    plugins: Path = PLUGINS
    configurations: Path = CONFIGURATIONS
    limits: TimeLimits = TimeLimits()
    cgroups: CgroupSetup = CgroupSetup()


class NodeResourceInterface(LifecyclePlugins):
    """The connected plugins. `serving` starts and accepts them; before and after it none is connected."""

    def __init__(self, settings: NriSettings, runtime_version: str) -> None:
        self._settings = settings
        self._version = runtime_version
        self._plugins: list[PluginConnection] = []
        self._pods: dict[str, PodView] = {}
        self._containers: dict[str, tuple[PodView, ContainerView]] = {}
        """What is being created, and has passed the plugins."""
        self._adjusted: dict[str, pb.Container] = {}
        """The containers that plugins have adjusted, as they were created."""
        self._host: LifecycleHost | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    @property
    def active(self) -> bool:
        """As `LifecyclePlugins.active`."""
        return bool(self._plugins)

    @contextlib.asynccontextmanager
    async def serving(self, host: LifecycleHost) -> AsyncIterator[None]:
        """Start the plugins of the folder, and accept others, until the end of the block.

        Where the socket cannot be created, or another runtime listens on it, none is accepted, which is logged.
        """
        self._host = host
        with self._listen() or contextlib.nullcontext() as listener:  # a task that is cancelled may not have started
            if listener is not None:
                self._spawn(self._accept(listener))
            try:
                await self._start_plugins()
                yield
            finally:
                for plugin in tuple(self._plugins):
                    plugin.close()
                if self._tasks:
                    for task in self._tasks:
                        task.cancel()
                    await asyncio.wait(self._tasks)

    async def notify(self, point: LifecyclePoint, pod: PodView, container: ContainerView | None = None) -> None:
        """As `LifecyclePlugins.notify`."""
        if point is LifecyclePoint.RUN_POD:
            self._pods[pod.spec.id] = pod
        elif point in {LifecyclePoint.STOP_POD, LifecyclePoint.REMOVE_POD}:
            self._pods.pop(pod.spec.id, None)
        elif container is not None:
            self._containers.pop(container.id, None)
        request: Any = getattr(pb, f"{point}Request")(pod=pod_message(pod))
        if container is not None:
            request.container.CopyFrom(self._message(pod, container))
            if point is LifecyclePoint.REMOVE:
                self._adjusted.pop(container.id, None)
        if point is LifecyclePoint.UPDATE_POD:
            for field, limits in (("overhead_linux_resources", pod.overhead), ("linux_resources", pod.resources)):
                if limits is not None:
                    getattr(request, field).CopyFrom(resources_message(limits))
        updates = MergedUpdates(Owners())
        for plugin in tuple(self._plugins):
            response = await self._call(plugin, point, request, getattr(pb, f"{point}Response"))
            if isinstance(response, pb.StopContainerResponse):
                updates.add(response.update, plugin.full_name)
        if updates.by_container:  # not awaited: whoever waits for this report may hold the lock of a container that they name
            self._spawn(self._try_to_apply(updates.by_container.values(), str(point)))

    async def adjust(self, pod: PodView, container: ContainerView, spec: ContainerSpec) -> ContainerSpec:
        """As `LifecyclePlugins.adjust`."""
        self._containers[container.id] = (pod, container)
        try:
            request = pb.CreateContainerRequest(pod=pod_message(pod), container=self._message(pod, container))
            pristine = pb.Container()
            pristine.CopyFrom(request.container)
            creation = MergedCreation(request)
            evictions: list[pb.ContainerEviction] = []
            consulted: list[pb.PluginInstance] = []
            for plugin in tuple(self._plugins):
                response = await self._call(plugin, "CreateContainer", request, pb.CreateContainerResponse)
                if response is not None:
                    consulted.append(pb.PluginInstance(name=plugin.name, index=plugin.index))
                    creation.add(response, plugin.full_name)
                    evictions.extend(response.evict)
            await self._validate(creation, pristine, consulted)
            result = adjusted(spec, creation.adjustment)
            await self._apply(creation.updates.by_container.values())
            await self._evict(evictions)
            if creation.adjustment.ByteSize():
                self._adjusted[container.id] = creation.request.container
        except BaseException:
            self._containers.pop(container.id, None)
            raise
        return result

    async def update(self, pod: PodView, container: ContainerView, change: Resources) -> Resources:
        """As `LifecyclePlugins.update`."""
        request = pb.UpdateContainerRequest(
            pod=pod_message(pod), container=self._message(pod, container), linux_resources=resources_message(change)
        )
        updates = MergedUpdates(Owners(), changed=request)
        evictions: list[pb.ContainerEviction] = []
        for plugin in tuple(self._plugins):
            response = await self._call(plugin, "UpdateContainer", request, pb.UpdateContainerResponse)
            if response is not None:
                updates.add(response.update, plugin.full_name)
                evictions.extend(response.evict)
        _require_known(request.linux_resources)
        await self._apply(updates.by_container.values())
        await self._evict(evictions)
        return resources_model(request.linux_resources)

    async def _call(self, plugin: PluginConnection, method: str, request: Message, response: type[Any]) -> Any:
        await asyncio.shield(plugin.synchronized)
        return await plugin.call(method, request, response)

    async def _validate(self, creation: MergedCreation, pristine: pb.Container, consulted: list[pb.PluginInstance]) -> None:
        """Have the validating plugins look at the merged adjustment. Raises `Unknown` if one rejects it."""
        validators = [plugin for plugin in self._plugins if plugin.subscribed("ValidateContainerAdjustment")]
        if not validators:
            return
        request = pb.ValidateContainerAdjustmentRequest(
            pod=creation.request.pod,
            container=pristine,
            adjust=creation.adjustment,
            update=creation.updates.by_container.values(),
            owners=creation.owners.message,
            plugins=consulted,
        )
        calls = (
            self._call(plugin, "ValidateContainerAdjustment", request, pb.ValidateContainerAdjustmentResponse)
            for plugin in validators
        )
        for plugin, response in zip(validators, await asyncio.gather(*calls), strict=True):
            if response is not None and response.reject:
                raise Unknown(f"NRI plugin {plugin.full_name} rejects the adjustments of the others: {response.reason}")

    async def _apply(self, updates: Iterable[pb.ContainerUpdate]) -> None:
        """Update containers. Raises what an update raises whose failure is not to be ignored."""
        for update in updates:
            try:
                await self._apply_one(update)
            except CrishimError as error:
                if not update.ignore_failure:
                    raise
                _log.info("an NRI plugin's update of container %s failed, and is ignored: %s", update.container_id, error)

    async def _apply_one(self, update: pb.ContainerUpdate) -> None:
        _require_known(update.linux.resources)
        if self._host is not None:
            await self._host.update_container(ContainerId(update.container_id), resources_model(update.linux.resources))

    async def _try_to_apply(self, updates: Iterable[pb.ContainerUpdate], who: str) -> list[pb.ContainerUpdate]:
        """Update containers as far as possible; return the updates that failed, which are logged."""
        failed = []
        for update in updates:
            try:
                await self._apply_one(update)
            except CrishimError as error:
                _log.warning("NRI: %s could not update container %s: %s", who, update.container_id, error)
                failed.append(update)
        return failed

    async def _evict(self, evictions: Iterable[pb.ContainerEviction]) -> None:
        for eviction in evictions:
            if self._host is not None:
                with contextlib.suppress(NotFound):
                    await self._host.evict_container(ContainerId(eviction.container_id), eviction.reason)

    async def _update_containers(self, plugin: str, request: pb.UpdateContainersRequest) -> pb.UpdateContainersResponse:
        """Serve a plugin's own request. The response names the updates that failed."""
        failed = await self._try_to_apply(request.update, plugin)
        await self._evict(request.evict)
        return pb.UpdateContainersResponse(failed=failed)

    def _listen(self) -> socket.socket | None:
        path = self._settings.socket
        if path is None:
            return None
        if is_served(path):
            _log.warning("no NRI plugin can connect: another runtime serves %s", path)
            return None
        listener = socket.socket(socket.AF_UNIX)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen()
        except OSError as error:
            listener.close()
            _log.warning("no NRI plugin can connect: %s: %s", path, error.strerror)
            return None
        listener.setblocking(False)
        return listener

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptors are left
                _log.warning("an NRI plugin could not be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            self._spawn(self._serve(PluginConnection(self._settings.limits, self._update_containers), connected))

    async def _start_plugins(self) -> None:
        """Start the programs of the plugins' folder, and wait until each takes part, or has failed."""
        started = await asyncio.to_thread(self._found)
        starting = []
        for program, index, name, config in started:
            plugin = PluginConnection(self._settings.limits, self._update_containers, name=name, index=index, config=config)
            starting.append(plugin.synchronized)
            self._spawn(self._run(plugin, program))
        if starting:
            await asyncio.wait(starting)

    def _found(self) -> Sequence[tuple[Path, str, str, str]]:
        """The programs, with the index and name that their files' names have, and their configurations."""
        folder, found = self._settings.plugins, []
        try:
            files = sorted(folder.iterdir()) if folder.is_dir() else []
        except OSError as error:
            _log.warning("no NRI plugin of %s is started: %s", folder, error.strerror)
            return []
        for file in files:
            if not file.is_file() or not os.access(file, os.X_OK):
                continue
            try:
                index, name = split_file_name(file.name)
                places = (self._settings.configurations / f"{stem}.conf" for stem in (file.name, name))
                config = next((path.read_text(encoding="utf-8") for path in places if path.is_file()), "")
            except (InvalidArgument, OSError, ValueError) as error:
                _log.warning("%s is not started: %s", file, error)
                continue
            found.append((file, index, name, config))
        return found

    async def _run(self, plugin: PluginConnection, program: Path) -> None:
        """Start a program with one end of a socket pair, and serve the other; kill it at the end."""
        ours, theirs = socket.socketpair()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "NRI_PLUGIN_NAME": plugin.name,
            "NRI_PLUGIN_IDX": plugin.index,
            "NRI_PLUGIN_SOCKET": str(theirs.fileno()),
        }
        try:
            with theirs:
                process = await children.start(
                    program, env=environment, pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL
                )
        except OSError as error:
            ours.close()
            _log.warning("NRI plugin %s cannot be started: %s", program, error)
            plugin.synchronized.set_result(None)
            return
        try:
            await self._serve(plugin, ours)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _serve(self, plugin: PluginConnection, connected: socket.socket) -> None:
        """Let a plugin take part from its registration to the end of its connection."""
        try:
            await plugin.register(connected, self._version)
            self._plugins.append(plugin)
            self._plugins.sort(key=lambda other: other.index)
            updates = await self._synchronize(plugin)
            _log.info("NRI plugin %s is connected", plugin.full_name)
            plugin.synchronized.set_result(None)  # before the updates: who holds a lock that they need may wait for this
            await self._try_to_apply(updates, plugin.full_name)
            await plugin.ended()
            _log.info("NRI plugin %s has disconnected", plugin.full_name)
        except CrishimError as error:
            _log.warning("NRI plugin %s is dropped: %s", plugin.full_name if plugin.name else "without a name", error)
        finally:
            if plugin in self._plugins:
                self._plugins.remove(plugin)
            if not self._plugins:  # nothing is called from now on, so the ends of these would not be noticed
                self._forget_removed()
                self._pods.clear()
                self._containers.clear()
            if not plugin.synchronized.done():
                plugin.synchronized.set_result(None)
            plugin.close()

    async def _synchronize(self, plugin: PluginConnection) -> list[pb.ContainerUpdate]:
        """Send a plugin all pods and containers; return the updates that it requests."""
        if self._host is None:
            return []
        pods = {pod.spec.id: pod for pod in (*self._pods.values(), *self._host.pods())}
        containers = {
            container.id: (pod, container) for pod, container in (*self._containers.values(), *self._host.containers())
        }
        return await plugin.synchronize(
            [pod_message(pod) for pod in pods.values()],
            [self._message(pod, container) for pod, container in containers.values()],
        )

    def _forget_removed(self) -> None:
        """Forget the adjustments of containers that were removed while no plugin was connected, which is not reported."""
        known = {*self._containers, *(container.id for _, container in (self._host.containers() if self._host else ()))}
        self._adjusted = {key: adjusted for key, adjusted in self._adjusted.items() if key in known}

    def _message(self, pod: PodView, container: ContainerView) -> pb.Container:
        """A container as plugins see it."""
        message = container_message(pod, container, self._settings.cgroups)
        adjusted = self._adjusted.get(container.id)
        return message if adjusted is None else with_adjustments(message, adjusted)

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("NRI: an unexpected error", exc_info=error)


def _require_known(limits: pb.LinuxResources) -> None:
    if others := other_limits(limits):
        raise InvalidArgument(f"NRI update linux.resources.{others[0]}", "cannot be changed")
