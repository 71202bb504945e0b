"""containerd's shim for runc: its features depend on the runtime behind it.

When the caller of a Create disconnects, this shim kills its runtime during the creation. It does not know what is left then, a
folder of state and cgroups; its `delete` removes the folder, and only the bundle names the cgroups.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from google.protobuf.any_pb2 import Any as AnyMessage

from crishim.backends.runc.command import RuntimeCommand
from crishim.errors import CrishimError
from crishim.interfaces.backend import BackendInfo
from crishim.interfaces.keeper import Keeper
from crishim.interfaces.seats import Clock
from crishim.linux.cgroups import Cgroups, folder_of
from crishim.model.process import Exit
from crishim.oci.facts import Host
from crishim.pods.bundle import read_config
from crishim.pods.host import cgroup_v2
from crishim.shimv2.client.binary import ShimBinary
from crishim.shimv2.client.files import SHIMS
from crishim.shimv2.client.runtime import ShimRuntime
from crishim.shimv2.wire.messages import runc_options


@attrs.frozen(kw_only=True)
class RuncShimBinary(ShimBinary):
    """A ShimBinary that also removes the cgroup."""

    leaves_halves: bool = True

    async def delete(self, task_id: str, bundle: Path) -> Exit:
        """As `ShimBinary.delete`."""
        try:
            return await super().delete(task_id, bundle)
        finally:
            with contextlib.suppress(CrishimError, KeyError):
                path = (await asyncio.to_thread(read_config, bundle))["linux"]["cgroupsPath"]
                await asyncio.to_thread(Cgroups(v2=cgroup_v2()).remove, folder_of(path))


class RuncShimRuntime(ShimRuntime):
    """Runs bundles by containerd's shim with `command`'s program; its state and the shims' are in folders of `state`."""

    def __init__(
        self,
        binary: ShimBinary,
        state: Path,
        clock: Clock,
        host: Host,
        command: RuntimeCommand,
        *,
        keeper: Keeper | None = None,
    ) -> None:
        super().__init__(binary, state / SHIMS, clock, self._make_options, keeper=keeper)
        self._host = host
        self._runtime_root = str(state / "runtime")
        self._command = command

    async def probe(self) -> BackendInfo:
        """As `ShimRuntime.probe`, with the features of the runtime behind the shim."""
        info = await super().probe()
        _, able = await self._command.features(self._host.kernel)
        return attrs.evolve(info, supported=able.supported, features=able.advertised)

    def _make_options(self, config: Mapping[str, Any]) -> AnyMessage:
        """In a user namespace the streams belong to the namespace's root."""
        linux = config.get("linux", {})
        first = [next((line["hostID"] for line in linux.get(key, ())), 0) for key in ("uidMappings", "gidMappings")]
        return runc_options(
            self._command.program,
            self._runtime_root,
            systemd_cgroup=self._command.systemd_cgroup,
            owner=(int(first[0]), int(first[1])),
        )
