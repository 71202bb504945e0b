"""CniNetwork: pods' networks by CNI plugins. SetnsDialer: connections to ports in a pod's network namespace.

An attachment is stored before ADD and completed after it, and deleted once every DEL has succeeded: after a crash in between,
`tear_down` knows what to undo with which configuration, even if the folder's files have changed.
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
    """Connects to the loopback interface in a network namespace. A socket stays in the namespace in which it was created."""

    async def dial(self, netns: str, port: int) -> ByteStream:
        """As `NetnsDialer.dial`; a missing namespace is `Unavailable` too."""

        def make(family: int) -> socket.socket:
            return inside(netns, functools.partial(stream_socket, family))

        return await dial_loopback(port, make if netns else stream_socket)


NOT_READY: Final = "NetworkPluginNotReady"
"""The reason of the NetworkReady condition, as in containerd and CRI-O."""

_WITH_DEL: Final = "0.4.0"
"""Since this version DEL gets the result of ADD."""

_WITH_STATUS: Final = "1.1.0"
"""Since this version there are STATUS and GC."""

_STATUS_AGE: Final = 10.0
"""Seconds for which a result of STATUS is used."""

_log = logging.getLogger(__name__)


class CniNetwork(PodNetwork):
    """Connects pods by the plugins of one network: the first valid file of `config_folder` (`/etc/cni/net.d`).

    `plugin_folders` have the programs (`/opt/cni/bin`, Debian's `/usr/lib/cni`). `cache_folder` is this object's own and
    survives a reboot, as host-local's addresses do: an attachment can be freed only if it is stored here.
    """

    def __init__(self, config_folder: Path, plugin_folders: Collection[Path], cache_folder: Path) -> None:
        self._config = ConfigFolder(config_folder)
        self._leftovers = LeftoverPlugins(cache_folder / "running")
        self._plugins = Plugins(plugin_folders, self._leftovers)
        self._results = ResultCache(cache_folder / "results")
        self._status: asyncio.Task[None] | None = None
        self._status_of: NetworkList | None = None
        self._status_until = 0.0
        self._trouble = ""

    async def set_up(self, spec: SandboxSpec) -> tuple[str, ...]:
        """As `PodNetwork.set_up`: `lo` is set up, then every plugin's ADD runs in turn.

        Raises `InvalidArgument` for annotations or names that cannot be passed to plugins, `Unavailable` without a network,
        and the plugins' errors.
        """
        network = self._network()
        requested = attachment(spec)
        raise_loopback(spec.netns)
        self._results.put(CachedResult(network=network, attachment=requested))
        result: Mapping[str, Any] | None = None
        for plugin in network.plugins:
            config = plugin_input(network, plugin, requested.capabilities, result)
            result = await self._plugins.add(plugin.type, _call("ADD", requested), config)
        assert result is not None
        self._results.put(CachedResult(network=network, attachment=requested, result=result))
        return addresses(result)

    async def tear_down(self, spec: SandboxSpec) -> None:
        """As `PodNetwork.tear_down`: every plugin's DEL, the last one first. A sandbox without a stored attachment was never
        set up.

        The failure of one plugin does not prevent the others from running; the first failure is raised, and the attachment
        stays.
        """
        for stored in self._results.of(spec.id):
            if isinstance(stored, str):
                await self._undo_unknown(spec, stored)
            else:
                await self._undo(stored)
                self._results.forget(stored.network, spec.id)

    async def ready(self) -> NetworkReady:
        """Whether there is a valid configuration whose plugins are all installed, and the last result of STATUS.

        STATUS runs in the background, at most once in ten seconds; a later call reports its result.
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
        """What the network's two folders lack: a valid configuration, or a plugin of it; empty if nothing is missing."""
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
        """Called at start, before everything else: kill the plugins that a killed server has left running."""
        await asyncio.to_thread(self._leftovers.end)

    async def collect(self, valid: Collection[str]) -> None:
        """Free the attachments of sandboxes that are not in `valid`: stored ones, and by GC, where the version has it, all
        others.

        Called at start, when nothing is being set up. No other runtime may use this network: GC would free its attachments.
        Failures are logged.
        """
        network, _ = self._config.current()
        if network is None:
            return
        for container_id in self._results.containers(network):
            if container_id not in valid:
                await _logged(self._collect_one(container_id))
        if network.speaks(_WITH_STATUS) and not network.disable_gc:
            for plugin in network.plugins:
                config = garbage_input(network, plugin, sorted(valid))
                await _logged(self._plugins.run(plugin.type, PluginCall(command="GC"), config))

    async def close(self) -> None:
        """End the background tasks."""
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

    async def _undo(self, stored: CachedResult) -> None:
        network, requested = stored.network, stored.attachment
        if not is_network_namespace(requested.netns):
            requested = attrs.evolve(requested, netns="")
        result = stored.result if network.speaks(_WITH_DEL) else None
        failures = []
        for plugin in reversed(network.plugins):
            try:
                await self._plugins.run(
                    plugin.type, _call("DEL", requested), plugin_input(network, plugin, requested.capabilities, result)
                )
            except CrishimError as error:
                if requested.netns or not means_gone(error):
                    failures.append(error)
        if failures:
            raise failures[0]

    async def _undo_unknown(self, spec: SandboxSpec, name: str) -> None:
        """Undo an attachment whose file cannot be read, by the current configuration."""
        _log.warning("the stored network result %s cannot be read; its attachment is deleted from the current network", name)
        await self._undo(CachedResult(network=self._network(), attachment=attachment(spec)))
        self._results.drop(name)

    async def _collect_one(self, container_id: str) -> None:
        for stored in self._results.of(container_id):
            if not isinstance(stored, str):
                await self._undo(stored)
                self._results.forget(stored.network, container_id)

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


def _call(command: str, requested: Attachment) -> PluginCall:
    return PluginCall(command=command, container_id=requested.container_id, netns=requested.netns, args=requested.args)


def _not_ready(message: str) -> NetworkReady:
    return NetworkReady(ready=False, reason=NOT_READY, message=message)


async def _logged(work: Awaitable[object]) -> None:
    try:
        await work
    except CrishimError as error:
        _log.warning("network garbage collection failed: %s", error)
