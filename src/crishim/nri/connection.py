"""One connected plugin: its registration, its subscription, and calls with a time limit.

A plugin that does not respond in time, or whose connection ends, is dropped: it takes part in nothing from then on. An error
that a plugin returns is a refusal, and fails the request.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import attrs
from google.protobuf.message import Message

from crishim._proto import UNDECODABLE
from crishim._proto import nri_pb2 as pb
from crishim.errors import AlreadyExists, Code, DeadlineExceeded, InvalidArgument, Unavailable, Unknown
from crishim.nri.multiplex import PLUGIN_CHANNEL, RUNTIME_CHANNEL, Trunk
from crishim.ttrpc.client import Client
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Server, message_of
from crishim.ttrpc.status import TtrpcError

__all__ = ["TimeLimits"]

RUNTIME_SERVICE: Final = "nri.pkg.api.v1alpha1.Runtime"
PLUGIN_SERVICE: Final = "nri.pkg.api.v1alpha1.Plugin"

SOCKET: Final = "/var/run/nri/nri.sock"
"""Where plugins look for a runtime."""

VERSION: Final = "v0.12.2"
"""The release of NRI whose protocol is served."""

EVENTS: Final = {
    name: pb.Event.Value(re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper())
    for name in (
        "RunPodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "UpdatePodSandbox",
        "PostUpdatePodSandbox",
        "CreateContainer",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "UpdateContainer",
        "PostUpdateContainer",
        "StopContainer",
        "RemoveContainer",
        "ValidateContainerAdjustment",
    )
}
"""The events to which plugins subscribe, by the names of their calls."""

ALL_EVENTS: Final = (1 << (pb.LAST - 1)) - 1

_NAME: Final = re.compile(r"[A-Za-z0-9._+-]+")
_INDEX: Final = re.compile(r"[0-9]{2}")
_PART: Final = 3 << 20
"""Bytes of one part of a synchronization; a ttrpc message may have 4 MiB."""

_log = logging.getLogger(__name__)

R = TypeVar("R", bound=Message)


@attrs.frozen(kw_only=True)
class TimeLimits:
    """Seconds for the registration of a plugin and for its synchronization, and for each other response."""

    registration: float = 5.0
    request: float = 2.0


Update = Callable[[str, pb.UpdateContainersRequest], Awaitable[pb.UpdateContainersResponse]]
"""Serves a plugin's own request to update containers; receives the plugin's name."""


class PluginConnection:
    """The connection to one plugin. A plugin that was started by the runtime has its `name`, `index` and `config` from it."""

    def __init__(self, limits: TimeLimits, update: Update, *, name: str = "", index: str = "", config: str = "") -> None:
        self._limits = limits
        self._update = update
        self._started = bool(name)
        self._config = config
        self._events = 0
        self._by_state_change: set[str] = set()
        self._trunk = Trunk()
        self._client = Client.over(self._trunk.channel(PLUGIN_CHANNEL).bind)
        self._server = Server(
            {
                (RUNTIME_SERVICE, "RegisterPlugin"): self._register,
                (RUNTIME_SERVICE, "UpdateContainers"): self._update_containers,
            }
        )
        self._server.serve(self._trunk.channel(RUNTIME_CHANNEL).bind)
        loop = asyncio.get_running_loop()
        self._registered: asyncio.Future[None] = loop.create_future()
        self.synchronized: asyncio.Future[None] = loop.create_future()
        """Done when the plugin knows every pod and container, or has been dropped. Shield it from cancellation."""
        self.name = name
        self.index = index

    @property
    def full_name(self) -> str:
        """The index and the name, as files of plugins are named."""
        return f"{self.index}-{self.name}"

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._client.closed.done()

    async def ended(self) -> None:
        """Return when the connection has ended."""
        await self._client.ended()

    def subscribed(self, call: str) -> bool:
        """Whether the plugin wants an event."""
        return bool(self._events >> (EVENTS[call] - 1) & 1)

    async def register(self, connected: socket.socket, runtime_version: str) -> None:
        """Take the connection, and wait until the plugin has registered and said which events it wants.

        Raises `DeadlineExceeded`, `Unavailable` if the plugin goes away, `InvalidArgument` for an invalid name, index or
        subscription, and `Unknown` if it refuses its configuration. The connection is closed then.
        """
        connected.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self._trunk, connected)
        try:
            gone = asyncio.ensure_future(self.ended())
            try:
                await asyncio.wait(
                    {self._registered, gone}, timeout=self._limits.registration, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                gone.cancel()
            if not self._registered.done():
                if self.closed:
                    raise Unavailable("an NRI plugin has closed its connection before it has registered")
                raise DeadlineExceeded(f"an NRI plugin has not registered within {self._limits.registration:g} s")
            await self._registered
            await self._configure(runtime_version)
        except BaseException:
            self.close()
            raise

    async def synchronize(self, pods: list[pb.PodSandbox], containers: list[pb.Container]) -> list[pb.ContainerUpdate]:
        """Tell the plugin of every pod and container; return the updates that it requests. Raises as `call`, and `Unknown` for
        a plugin that does not understand a synchronization in parts. The connection is closed then.
        """
        try:
            parts = list(_parts(pods, containers))
            updates: list[pb.ContainerUpdate] = []
            for part in parts:
                part.more = part is not parts[-1]
                response = await self._request("Synchronize", part, pb.SynchronizeResponse, self._limits.registration)
                if part.more and (response.update or not response.more):
                    raise Unknown(f"NRI plugin {self.full_name} does not understand a synchronization in parts")
                updates = list(response.update)
        except BaseException:
            self.close()
            raise
        return updates

    async def call(self, method: str, request: Message, response: type[R]) -> R | None:
        """Call the plugin, if it has subscribed to this event. None if it has not, and if it is dropped over the call.

        Raises `Unknown` with the plugin's own reason if it refuses.
        """
        if self.closed or not self.subscribed(method):
            return None
        try:
            return await self._notify(method, request, response)
        except TtrpcError as error:
            raise Unknown(f"NRI plugin {self.full_name} refuses {method}: {error.message}") from error
        except (DeadlineExceeded, Unavailable) as error:
            _log.warning("NRI plugin %s is dropped over %s: %s", self.full_name, method, error)
            self.close()
            return None

    def close(self) -> None:
        """End the connection."""
        self._trunk.close()

    async def _notify(self, method: str, request: Message, response: type[R]) -> R:
        """Call the plugin by the event's name; one of before NRI 0.11, which does not serve that, by a state change."""
        if method not in self._by_state_change:
            try:
                return await self._request(method, request, response)
            except TtrpcError as error:
                if error.answer is not Code.UNIMPLEMENTED:
                    raise
            self._by_state_change.add(method)
        event = pb.StateChangeEvent(event=EVENTS[method])
        for name in ("pod", "container"):
            if name in request.DESCRIPTOR.fields_by_name:
                getattr(event, name).CopyFrom(getattr(request, name))
        try:
            await self._request("StateChange", event, pb.Empty)
        except TtrpcError as error:
            if error.answer is not Code.UNIMPLEMENTED:
                raise
        return response()

    async def _request(self, method: str, request: Message, response: type[R], timeout: float | None = None) -> R:
        limit = timeout or self._limits.request
        payload = await self._client.call(PLUGIN_SERVICE, method, request.SerializeToString(), timeout=limit)
        try:
            return response.FromString(payload)
        except UNDECODABLE as error:
            raise Unavailable(f"NRI plugin {self.full_name} answers {method} with what cannot be read: {error}") from error

    async def _configure(self, runtime_version: str) -> None:
        request = pb.ConfigureRequest(
            config=self._config,
            runtime_name="crishim",
            runtime_version=runtime_version,
            registration_timeout=int(self._limits.registration * 1000),
            request_timeout=int(self._limits.request * 1000),
            NRI_version=VERSION,
        )
        try:
            response = await self._request("Configure", request, pb.ConfigureResponse)
        except TtrpcError as error:
            raise Unknown(f"NRI plugin {self.full_name} refuses its configuration: {error.message}") from error
        if response.events & ~ALL_EVENTS:
            raise InvalidArgument("events", f"NRI plugin {self.full_name} subscribes to unknown events {response.events:#x}")
        self._events = response.events or ALL_EVENTS

    async def _register(self, request: Request) -> bytes:
        message = message_of(request, pb.RegisterPluginRequest)
        if self._registered.done():
            raise AlreadyExists("NRI plugin", self.full_name)
        if not self._started:
            try:
                _check_name(message.plugin_name, message.plugin_idx)
            except InvalidArgument as error:
                self._registered.set_exception(error)
                raise
            self.name, self.index = message.plugin_name, message.plugin_idx
        self._registered.set_result(None)
        return pb.Empty().SerializeToString()

    async def _update_containers(self, request: Request) -> bytes:
        if not self.synchronized.done() or self.closed:
            raise Unavailable("the plugin is not synchronized yet")
        response = await self._update(self.full_name, message_of(request, pb.UpdateContainersRequest))
        return response.SerializeToString()


def split_file_name(name: str) -> tuple[str, str]:
    """The index and the name in the name of a plugin's file, such as `10-topology`. Raises `InvalidArgument`."""
    index, _, rest = name.partition("-")
    _check_name(rest, index)
    return index, rest


def _check_name(name: str, index: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgument("plugin_name", f"{name[:100]!r} is not the name of a plugin")
    if not _INDEX.fullmatch(index):
        raise InvalidArgument("plugin_idx", f"{index[:100]!r} is not two digits")


def _parts(pods: list[pb.PodSandbox], containers: list[pb.Container]) -> list[pb.SynchronizeRequest]:
    """A synchronization, in as many messages as its size needs."""
    parts, size = [pb.SynchronizeRequest()], 0
    for name, items in (("pods", pods), ("containers", containers)):
        for item in items:
            if size and size + item.ByteSize() > _PART:
                parts.append(pb.SynchronizeRequest())
                size = 0
            getattr(parts[-1], name).append(item)
            size += item.ByteSize()
    return parts
