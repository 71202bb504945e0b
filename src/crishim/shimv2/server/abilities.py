"""Refuses what a pod asks for and its runtime does not support, by the name that the field has in CRI."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from crishim.errors import DataLoss, Unimplemented
from crishim.interfaces.capabilities import SupportsAttach
from crishim.interfaces.oci_runtime import OciRuntime
from crishim.lifecycle.features import check_features, sandbox_features
from crishim.model.features import Feature
from crishim.model.sandbox import SandboxSpec
from crishim.oci.features import config_features, of_a_pod
from crishim.pods.bundle import read_config

_BY_CONTAINERD: Final = frozenset({Feature.HOST_PORTS})
"""What containerd does itself for a sandbox."""


class Abilities:
    """What the runtimes of one daemon support, each by its `probe`."""

    def __init__(self) -> None:
        self._supported: dict[object, frozenset[Feature]] = {}

    async def check_task(self, key: object, runtime: OciRuntime, bundle: Path, *, terminal: bool) -> None:
        """Raises `InvalidArgument` for a field of a pod's container, and `Unimplemented` for a terminal without an attach.

        `key` names the runtime. Clients that are not CRI's get from the runtime what they get: their config.json has defaults
        that nobody asked for.
        """
        if terminal and not isinstance(runtime, SupportsAttach):
            raise Unimplemented("SupportsAttach", "this runtime does not support terminals")
        try:
            config = read_config(bundle)
            requested = config_features(config) if of_a_pod(config) else {}
        except (DataLoss, AttributeError, TypeError):  # the runtime says what is wrong
            return
        await self._check(key, runtime, requested)

    async def check_sandbox(self, key: object, runtime: OciRuntime, spec: SandboxSpec) -> None:
        """Raises `InvalidArgument` for a field of a pod that a shim serves as a sandbox."""
        await self._check(key, runtime, sandbox_features(spec))

    async def _check(self, key: object, runtime: OciRuntime, requested: Mapping[Feature, bool]) -> None:
        asked = {feature for feature, is_set in requested.items() if is_set} - _BY_CONTAINERD
        if asked - self._supported.get(key, frozenset()):  # unknown, or perhaps of a newer runtime
            self._supported[key] = (await runtime.probe()).supported
        check_features(requested, self._supported.get(key, frozenset()), _BY_CONTAINERD)
