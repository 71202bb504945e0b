"""For authors of NRI plugins: subclass `NriPlugin`, write the methods of the events that you want, and run it.

    class Labels(NriPlugin):
        name = "labels"
        index = "10"

        async def create_container(self, pod, container):
            return Adjustment(env={"POD": pod.name})

    asyncio.run(Labels().run())

A plugin runs against any runtime with NRI: crishim, containerd, CRI-O. It subscribes to exactly the events whose methods its
class defines. Methods receive NRI's messages (`messages`, generated), which are not to be changed, and run concurrently.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs

from crishim._proto import nri_pb2 as messages
from crishim.errors import FailedPrecondition, Unavailable, Unimplemented, Unknown
from crishim.nri.connection import EVENTS, PLUGIN_SERVICE, RUNTIME_SERVICE, SOCKET, VERSION
from crishim.nri.multiplex import PLUGIN_CHANNEL, RUNTIME_CHANNEL, Trunk
from crishim.ttrpc.client import Client
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Server
from crishim.ttrpc.status import TtrpcError

__all__ = ["REMOVED", "Adjustment", "NriPlugin", "messages"]

_TIMEOUT: Final = 10.0

REMOVED: Final = None
"""As the value of an adjustment's entry: the container does not get it."""


@attrs.frozen(kw_only=True)
class Adjustment:
    """The usual adjustments of a container to be created. `message` may carry any other of NRI's, and is extended by these.

    In `env`, `annotations` and `sysctls` the value `REMOVED` removes an entry. `mounts` are NRI's messages; limits are set as
    `memory` in bytes, `cpu_shares`, `cpus` and `mems`.
    """

    env: Mapping[str, str | None] = attrs.field(factory=dict)
    annotations: Mapping[str, str | None] = attrs.field(factory=dict)
    sysctls: Mapping[str, str | None] = attrs.field(factory=dict)
    mounts: Sequence[messages.Mount] = ()
    cdi_devices: Sequence[str] = ()
    memory: int | None = None
    cpu_shares: int | None = None
    cpus: str = ""
    mems: str = ""
    message: messages.ContainerAdjustment | None = None

    def to_message(self) -> messages.ContainerAdjustment:
        """The adjustment as NRI's message."""
        made = messages.ContainerAdjustment()
        if self.message is not None:
            made.CopyFrom(self.message)
        for key, value in self.env.items():
            made.env.add(key=key if value is not None else f"-{key}", value=value or "")
        _mark(self.annotations, made.annotations)
        if self.sysctls:
            _mark(self.sysctls, made.linux.sysctl)
        made.mounts.extend(self.mounts)
        made.CDI_devices.extend(messages.CDIDevice(name=name) for name in self.cdi_devices)
        resources = made.linux.resources
        if self.memory is not None:
            resources.memory.limit.value = self.memory
        if self.cpu_shares is not None:
            resources.cpu.shares.value = self.cpu_shares
        if self.cpus:
            resources.cpu.cpus = self.cpus
        if self.mems:
            resources.cpu.mems = self.mems
        return made


Result = (
    Adjustment
    | messages.ContainerAdjustment
    | Sequence[messages.ContainerUpdate]
    | tuple[Adjustment | messages.ContainerAdjustment | None, Sequence[messages.ContainerUpdate]]
    | str
    | None
)
"""What a method may return, by its event: see `NriPlugin`."""


class NriPlugin:
    """A plugin. The methods that a subclass may define, each a coroutine:

        configure(config, runtime, version)                 the contents of the plugin's configuration file
        synchronize(pods, containers)                       -> updates of containers
        run_pod_sandbox(pod), stop_pod_sandbox(pod), remove_pod_sandbox(pod)
        update_pod_sandbox(pod, overhead, resources), post_update_pod_sandbox(pod)
        create_container(pod, container)                    -> an adjustment, or it and updates of other containers
        update_container(pod, container, resources)         -> updates, of this and other containers
        stop_container(pod, container)                      -> updates of other containers
        post_create_container, start_container, post_start_container, post_update_container,
        remove_container (pod, container)
        validate_container_adjustment(request)              -> a reason to reject, empty or None to agree

    An exception refuses the event, and with it the request of the runtime's client; its text is shown there. `name` and `index`
    (two digits, the order among plugins) are replaced by those that a runtime gives a plugin which it has started.
    """

    name: ClassVar[str] = "plugin"
    index: ClassVar[str] = "50"

    def __init__(self) -> None:
        self._runtime: Client | None = None

    async def run(self, path: str | Path = SOCKET) -> None:
        """Connect to the runtime, and serve it until the connection ends.

        A plugin that the runtime has started uses the connection that it was given. Raises `Unavailable` if nobody listens at
        `path`, and `Unknown` if the runtime refuses the plugin.
        """
        trunk = Trunk()
        client = Client.over(trunk.channel(RUNTIME_CHANNEL).bind)
        server = Server({(PLUGIN_SERVICE, name): handler for name, handler in self._handlers().items()})
        server.serve(trunk.channel(PLUGIN_CHANNEL).bind)
        connected = await _connect(path)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: trunk, connected)
        request = messages.RegisterPluginRequest(
            plugin_name=os.environ.get("NRI_PLUGIN_NAME") or self.name,
            plugin_idx=os.environ.get("NRI_PLUGIN_IDX") or self.index,
            NRI_version=VERSION,
        )
        try:
            await client.call(RUNTIME_SERVICE, "RegisterPlugin", request.SerializeToString(), timeout=_TIMEOUT)
            self._runtime = client
            await client.ended()
        except TtrpcError as error:
            raise Unknown(f"the runtime refuses the plugin: {error.message}") from error
        finally:
            self._runtime = None
            trunk.close()

    async def update_containers(
        self, updates: Sequence[messages.ContainerUpdate], evictions: Sequence[messages.ContainerEviction] = ()
    ) -> Sequence[messages.ContainerUpdate]:
        """Have the runtime update and evict containers at any time; return the updates that failed.

        Raises `FailedPrecondition` while the plugin is not connected, and `Unknown` if the runtime refuses.
        """
        if self._runtime is None:
            raise FailedPrecondition("not connected", "connected", "the plugin")
        request = messages.UpdateContainersRequest(update=updates, evict=evictions)
        try:
            data = await self._runtime.call(RUNTIME_SERVICE, "UpdateContainers", request.SerializeToString(), timeout=_TIMEOUT)
        except TtrpcError as error:
            raise Unknown(error.message) from error
        return messages.UpdateContainersResponse.FromString(data).failed

    def _handlers(self) -> dict[str, Callable[[Request], Awaitable[bytes]]]:
        return {
            "Configure": self._configure,
            "Synchronize": self._synchronize,
            "Shutdown": self._shutdown,
            **{name: _Event(self, name) for name in EVENTS},
        }

    async def _configure(self, request: Request) -> bytes:
        message = messages.ConfigureRequest.FromString(request.payload)
        if method := self._method("configure"):
            await method(message.config, message.runtime_name, message.runtime_version)
        wanted = [number for name, number in EVENTS.items() if self._method(_method_name(name))]
        if not wanted:
            raise FailedPrecondition("without any", "with a method for some event", f"the plugin {self.name}")
        events = sum(1 << (number - 1) for number in wanted)
        return messages.ConfigureResponse(events=events).SerializeToString()

    async def _synchronize(self, request: Request) -> bytes:
        message = messages.SynchronizeRequest.FromString(request.payload)
        self._pods = [*getattr(self, "_pods", ()), *message.pods]
        self._containers = [*getattr(self, "_containers", ()), *message.containers]
        if message.more:
            return messages.SynchronizeResponse(more=True).SerializeToString()
        pods, containers = self._pods, self._containers
        self._pods, self._containers = [], []
        updates = None
        if method := self._method("synchronize"):
            updates = await method(pods, containers)
        return messages.SynchronizeResponse(update=updates or ()).SerializeToString()

    async def _shutdown(self, _: Request) -> bytes:
        if method := self._method("shutdown"):
            await method()
        return messages.Empty().SerializeToString()

    def _method(self, name: str) -> Callable[..., Awaitable[Any]] | None:
        return getattr(self, name, None)


class _Event:
    """The handler of one event."""

    def __init__(self, plugin: NriPlugin, name: str) -> None:
        self._plugin = plugin
        self._name = name

    async def __call__(self, request: Request) -> bytes:
        method = self._plugin._method(_method_name(self._name))  # noqa: SLF001 - one class in two parts
        if method is None:
            raise Unimplemented(self._name)
        message: Any = getattr(messages, f"{self._name}Request").FromString(request.payload)
        response: Any = getattr(messages, f"{self._name}Response")()
        fields = message.DESCRIPTOR.fields_by_name
        if self._name == "ValidateContainerAdjustment":
            reason = await method(message)
            response.reject, response.reason = bool(reason), reason or ""
            return bytes(response.SerializeToString())
        names = ("pod", "container", "overhead_linux_resources", "linux_resources")
        result = await method(*(getattr(message, name) for name in names if name in fields))
        _fill(response, result)
        return bytes(response.SerializeToString())


def _fill(response: Any, result: Result) -> None:
    adjustment, updates = result if isinstance(result, tuple) else (result, ())
    if isinstance(adjustment, Adjustment):
        adjustment = adjustment.to_message()
    if isinstance(adjustment, messages.ContainerAdjustment):
        response.adjust.CopyFrom(adjustment)
    elif adjustment is not None:
        updates = adjustment
    if updates:
        response.update.extend(updates)


def _mark(changes: Mapping[str, str | None], target: Any) -> None:
    for key, value in changes.items():
        target[key if value is not None else f"-{key}"] = value or ""


def _method_name(event: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in event).lstrip("_")


async def _connect(path: str | Path) -> socket.socket:
    if given := os.environ.get("NRI_PLUGIN_SOCKET"):
        connected = socket.socket(fileno=int(given))
        connected.setblocking(False)
        return connected
    connected = socket.socket(socket.AF_UNIX)
    connected.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connected, str(path))
    except OSError as error:
        connected.close()
        raise Unavailable(f"{path}: {error.strerror}") from error
    return connected
