"""SetnsDialer: port-forward's way into a pod.

CniNetwork: pods' networks by CNI plugins.

An attachment is kept before ADD and completed after it, and forgotten once every DEL has succeeded: so whatever died in
between, `tear_down` knows what to undo, of which configuration, even when the folder's files are others by now.
"""

import asyncio
import contextlib
import functools
import logging
import socket
import time
from collections.abc import Awaitable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.cni.attachment import Attachment, attachment, garbage_input, plugin_input
from crishim.cni.config import NetworkList
from crishim.cni.files import ConfigFolder, ResultCache
from crishim.cni.invoke import LeftoverPlugins, PluginCall, Plugins
from crishim.cni.results import CachedResult, addresses, means_gone
from crishim.errors import CrishimError, Unavailable
from crishim.interfaces.capabilities import ByteStream
from crishim.interfaces.seats import NetnsDialer, NetworkReady, PodNetwork
from crishim.linux.namespaces import inside, is_network_namespace, raise_loopback
from crishim.linux.tcp import dial_loopback, stream_socket
from crishim.model.sandbox import SandboxSpec


class SetnsDialer(NetnsDialer):
    """Connects to a loopback inside a network namespace. A socket stays in the namespace in which it was made."""

    async def dial(self, netns: str, port: int) -> ByteStream:
        """As `NetnsDialer.dial`; a namespace that is gone is `Unavailable` too."""

        def make(family: int) -> socket.socket:
            return inside(netns, functools.partial(stream_socket, family))

        return await dial_loopback(port, make if netns else stream_socket)


NOT_READY: Final = "NetworkPluginNotReady"
"""The reason of the NetworkReady condition, as the kubelet knows it."""

_WITH_DEL: Final = "0.4.0"
"""From this version on DEL is told the result of ADD."""

_WITH_STATUS: Final = "1.1.0"
"""From this version on there are STATUS and GC."""

_STATUS_AGE: Final = 10.0
"""Seconds for which an answer of STATUS serves."""

_log = logging.getLogger(__name__)


class CniNetwork(PodNetwork):
    """Connects pods by the plugins of one network: the first valid file of `config_folder` (`/etc/cni/net.d`).

    `plugin_folders` hold the programs (`/opt/cni/bin`, Debian's `/usr/lib/cni`). `cache_folder` is this object's own and
    survives a reboot: host-local's addresses do too, and only what is kept here can be freed.
    """

    def __init__(self, config_folder: Path, plugin_folders: Collection[Path], cache_folder: Path) -> None:
        self._config = ConfigFolder(config_folder)
        self._strays = LeftoverPlugins(cache_folder / "running")
        self._plugins = Plugins(plugin_folders, self._strays)
        self._kept = ResultCache(cache_folder / "results")
        self._status: asyncio.Task[None] | None = None
        self._status_of: NetworkList | None = None
        self._status_until = 0.0
        self._trouble = ""

    async def set_up(self, spec: SandboxSpec) -> tuple[str, ...]:
        """As `PodNetwork.set_up`: `lo` is set up, then every plugin's ADD in turn.

        Raises `InvalidArgument` for annotations or names that cannot be told to plugins, `Unavailable` without a network, and
        what the plugins answer.
        """
        network = self._network()
        asked = attachment(spec)
        raise_loopback(spec.netns)
        self._kept.put(CachedResult(network=network, attachment=asked))
        result: Mapping[str, Any] | None = None
        for plugin in network.plugins:
            config = plugin_input(network, plugin, asked.capabilities, result)
            result = await self._plugins.add(plugin.type, _call("ADD", asked), config)
        assert result is not None
        self._kept.put(CachedResult(network=network, attachment=asked, result=result))
        return addresses(result)

    async def tear_down(self, spec: SandboxSpec) -> None:
        """As `PodNetwork.tear_down`: every plugin's DEL, the last one first. What has no kept attachment was never set up.

        One plugin's failure does not keep the others from their work; the first failure is raised, and the attachment stays.
        """
        for kept in self._kept.of(spec.id):
            if isinstance(kept, str):
                await self._undo_unknown(spec, kept)
            else:
                await self._undo(kept)
                self._kept.forget(kept.network, spec.id)

    async def ready(self) -> NetworkReady:
        """Whether there is a valid configuration whose plugins are all here, and what their STATUS said last.

        STATUS runs beside, at most once in ten seconds: its outcome is told by a later call.
        """
        if lacking := self.lacks():
            return _not_ready(lacking)
        network = self._network()
        if network.speaks(_WITH_STATUS):
            self._ask_status(network)
            if self._status_of is network and self._trouble:
                return _not_ready(self._trouble)
        return NetworkReady(ready=True)

    def lacks(self) -> str:
        """What a network lacks in its two folders: a valid configuration, or a plugin of it; empty where both are there."""
        network, problems = self._config.current()
        if network is None:
            return "; ".join((f"no network configuration in {self._config.folder}", *problems))
        if missing := sorted({plugin.type for plugin in network.plugins if self._plugins.find(plugin.type) is None}):
            folders = ", ".join(map(str, self._plugins.folders))
            return f"network {network.name} needs {', '.join(missing)}, not found in {folders}"
        return ""

    @property
    def name(self) -> str:
        """The network's name; empty without a valid configuration."""
        network, _ = self._config.current()
        return network.name if network is not None else ""

    async def begin(self) -> None:
        """For the start, before anything else: end the plugins that a server of ours left behind when it was killed."""
        await asyncio.to_thread(self._strays.end)

    async def collect(self, valid: Collection[str]) -> None:
        """Free what no sandbox of `valid` explains: kept attachments of others, and, where the version has GC, all the rest.

        For the start, when nothing is being set up. The plugins' own memory must be used by nobody else: GC frees what other
        runtimes of this network hold. Failures are logged.
        """
        network, _ = self._config.current()
        if network is None:
            return
        for container_id in self._kept.containers(network):
            if container_id not in valid:
                await _logged(self._collect_one(container_id))
        if network.speaks(_WITH_STATUS) and not network.disable_gc:
            for plugin in network.plugins:
                config = garbage_input(network, plugin, sorted(valid))
                await _logged(self._plugins.run(plugin.type, PluginCall(command="GC"), config))

    async def close(self) -> None:
        """End what runs beside."""
        if self._status is not None:
            self._status.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._status
            self._status = None

    def _network(self) -> NetworkList:
        network, problems = self._config.current()
        if network is None:
            raise Unavailable("; ".join((f"no network configuration in {self._config.folder}", *problems)))
        return network

    async def _undo(self, kept: CachedResult) -> None:
        network, asked = kept.network, kept.attachment
        if not is_network_namespace(asked.netns):
            asked = attrs.evolve(asked, netns="")
        result = kept.result if network.speaks(_WITH_DEL) else None
        failures = []
        for plugin in reversed(network.plugins):
            try:
                await self._plugins.run(
                    plugin.type, _call("DEL", asked), plugin_input(network, plugin, asked.capabilities, result)
                )
            except CrishimError as error:
                if asked.netns or not means_gone(error):
                    failures.append(error)
        if failures:
            raise failures[0]

    async def _undo_unknown(self, spec: SandboxSpec, name: str) -> None:
        """Undo what a kept file that cannot be read stood for, by the configuration of today."""
        _log.warning("the kept network result %s cannot be read; the present network is told to let go of it", name)
        await self._undo(CachedResult(network=self._network(), attachment=attachment(spec)))
        self._kept.drop(name)

    async def _collect_one(self, container_id: str) -> None:
        for kept in self._kept.of(container_id):
            if not isinstance(kept, str):
                await self._undo(kept)
                self._kept.forget(kept.network, container_id)

    def _ask_status(self, network: NetworkList) -> None:
        if self._status is not None and not self._status.done():
            return
        if self._status_of is not network or time.monotonic() >= self._status_until:
            self._status = asyncio.get_running_loop().create_task(self._statuses(network))

    async def _statuses(self, network: NetworkList) -> None:
        trouble = ""
        for plugin in network.plugins:
            try:
                await self._plugins.run(plugin.type, PluginCall(command="STATUS"), plugin_input(network, plugin, {}))
            except CrishimError as error:
                trouble = error.message
                break
        self._trouble, self._status_of = trouble, network
        self._status_until = time.monotonic() + _STATUS_AGE


def _call(command: str, asked: Attachment) -> PluginCall:
    return PluginCall(command=command, container_id=asked.container_id, netns=asked.netns, args=asked.args)


def _not_ready(message: str) -> NetworkReady:
    return NetworkReady(ready=False, reason=NOT_READY, message=message)


async def _logged(work: Awaitable[object]) -> None:
    try:
        await work
    except CrishimError as error:
        _log.warning("network garbage stays: %s", error)
