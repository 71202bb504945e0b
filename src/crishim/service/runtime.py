"""Version, Status, RuntimeConfig: what the node is told about the runtime as a whole."""

import json

from crishim.errors import CrishimError, Unimplemented
from crishim.interfaces.seats import NetworkReady
from crishim.lifecycle.records import unstructure
from crishim.model.features import Feature
from crishim.model.runtime import (
    CgroupDriver,
    RuntimeCondition,
    RuntimeFeatures,
    RuntimeHandler,
    RuntimeHandlerFeatures,
    RuntimeStatus,
    Version,
)
from crishim.model.values import EMPTY, FrozenDict
from crishim.service.core import Core


class Runtime:
    """The runtime verbs of CRI."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.pod_cidr = ""

    async def version(self, version: str) -> Version:
        """Who we are. The client's own version is not looked at, as everywhere in the field."""
        del version
        return Version(runtime_name=self._core.settings.runtime_name, runtime_version=self._core.settings.runtime_version)

    async def status(self, verbose: bool) -> RuntimeStatus:
        """RuntimeReady (every backend can be reached), NetworkReady, and what each handler can do."""
        problems = {seat.handlers: seat.problem for seat in self._core.backends.seats if seat.problem}
        message = "; ".join(f"{'/'.join(name or 'default' for name in names)}: {why}" for names, why in problems.items())
        runtime = RuntimeCondition(
            type="RuntimeReady", status=not problems, reason="BackendNotReady" if problems else "", message=message
        )
        network = await self._network()
        return RuntimeStatus(
            conditions=(runtime, network),
            handlers=self._handlers(),
            features=self._features(),
            info=self._info() if verbose else EMPTY,
        )

    async def update_config(self, pod_cidr: str) -> None:
        """Take note of the node's pod network."""
        self.pod_cidr = pod_cidr

    async def config(self) -> CgroupDriver:
        """The cgroup driver; Unimplemented where none is set, so that the kubelet uses its own flag."""
        driver = self._core.settings.cgroup_driver
        if driver is None:
            raise Unimplemented("cgroup_driver", "no cgroup driver is configured")
        return driver

    async def _network(self) -> RuntimeCondition:
        network = self._core.network
        try:
            ready = NetworkReady(ready=True) if network is None else await self._core.network_step("network", network.ready())
        except CrishimError as error:
            ready = NetworkReady(ready=False, message=error.message)
        return RuntimeCondition(
            type="NetworkReady",
            status=ready.ready,
            reason="" if ready.ready else ready.reason or "NetworkPluginNotReady",
            message="" if ready.ready else f"Network plugin returns error: {ready.message}",
        )

    def _handlers(self) -> tuple[RuntimeHandler, ...]:
        listed = []
        for name, seat in self._core.backends.handlers.items():
            info = seat.known_info
            listed.append(RuntimeHandler(name=name, features=info.features if info else RuntimeHandlerFeatures()))
        return tuple(listed)

    def _features(self) -> RuntimeFeatures:
        supported = [seat.known_info.supported for seat in self._core.backends.seats if seat.known_info]
        everywhere = frozenset.intersection(*supported) if supported else frozenset()
        return RuntimeFeatures(
            supplemental_groups_policy=Feature.STRICT_GROUPS in everywhere,
            mount_options=Feature.MOUNT_OPTIONS in everywhere,
        )

    def _info(self) -> FrozenDict[str, str]:
        backends = {
            "/".join(seat.handlers) or "default": {
                "name": seat.known_info.name if seat.known_info else "",
                "version": seat.known_info.version if seat.known_info else "",
                "problem": seat.problem,
                "capabilities": sorted(capability.__name__ for capability in seat.capabilities),
                "supported": sorted(seat.known_info.supported) if seat.known_info else [],
            }
            for seat in self._core.backends.seats
        }
        settings = unstructure(self._core.settings)
        return FrozenDict({"config": json.dumps({"settings": settings, "backends": backends, "podCIDR": self.pod_cidr})})
