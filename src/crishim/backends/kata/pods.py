"""KataRuntime and KataPods: what kata reads of a bundle, which features a machine supports, and the dialling of a
pod's ports.
"""

import errno
import fnmatch
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import Unavailable
from crishim.interfaces.backend import BackendContext, BackendInfo
from crishim.interfaces.capabilities import ByteStream, SupportsPortForward
from crishim.interfaces.seats import Rootfs
from crishim.linux.cgroups import read_text
from crishim.linux.tcp import dial_address
from crishim.model.container import ContainerSpec
from crishim.model.features import VM, Feature
from crishim.model.resources import Resources
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.model.values import FrozenDict, SandboxId
from crishim.oci.facts import BindSource, Host, Place
from crishim.pods.bundle import write_atomically
from crishim.pods.files import files_of
from crishim.pods.usage import MeasuredPods
from crishim.shimv2.client.runtime import ShimRuntime

_OURS: Final = "io.kubernetes.cri."
"""The prefix of annotations that tell a runtime the pod of a container: patterns do not match them."""

_SHM: Final = "/dev/shm"  # noqa: S108 - the container's
_ERRNO: Final = "SCMP_ACT_ERRNO"

_SIZE: Final = {
    "io.kubernetes.cri.sandbox-cpu-period": "cpu_period",
    "io.kubernetes.cri.sandbox-cpu-quota": "cpu_quota",
    "io.kubernetes.cri.sandbox-cpu-shares": "cpu_shares",
    "io.kubernetes.cri.sandbox-memory": "memory_limit_in_bytes",
}
"""The annotations with the pod's sums of resources, by which kata sizes a machine at its boot."""


WITHOUT_SECCOMP: Final = VM - {Feature.SECCOMP}
"""What is supported where kata's configuration lets no seccomp profile into the guest, its default."""


class KataRuntime(ShimRuntime):
    """A ShimRuntime whose containers run in a virtual machine."""

    name = "kata"
    guest_seccomp = False

    async def probe(self) -> BackendInfo:
        """As `Backend.probe`. Without `guest_seccomp` profiles would be ignored silently, so the feature is not supported."""
        info = await super().probe()
        return attrs.evolve(info, supported=VM if self.guest_seccomp else WITHOUT_SECCOMP)


class KataPods(MeasuredPods, SupportsPortForward):
    """Pods over kata. `patterns` (shell's) select the annotations of pods and containers that are passed to kata."""

    def __init__(self, runtime: KataRuntime, context: BackendContext, host: Host, *, patterns: tuple[str, ...]) -> None:
        super().__init__(runtime, context, host, sandbox_container=True)
        self.capabilities |= {SupportsPortForward}
        self._patterns = patterns

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        """As `Backend.start_sandbox`: the machine boots. The pod's addresses are recorded."""
        started = await super().start_sandbox(spec)
        write_atomically(self._pod(spec.id) / "ips", "\n".join(spec.ips))
        return started

    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        """As `SupportsPortForward.dial`, by the pod's address, since its loopback interface is in the guest.

        Ports that only listen on the guest's loopback interface cannot be reached.
        """
        addresses = read_text(self._pod(sandbox_id) / "ips").split()
        if not addresses:
            raise Unavailable("the pod has no address of its own")
        return await dial_address(addresses, port)

    def _sandbox_annotations(self, spec: SandboxSpec) -> Mapping[str, str]:
        return {**self._passed(spec.config.annotations), **sizes(spec.config.linux.resources)}

    def _place(self, spec: ContainerSpec, pod: Path, rootfs: Rootfs, views: Mapping[str, BindSource]) -> Place:
        place = super()._place(spec, pod, rootfs, views)
        return attrs.evolve(place, annotations=FrozenDict({**place.annotations, **self._passed(spec.annotations)}))

    def _finish_config(self, spec: ContainerSpec, config: dict[str, Any]) -> None:
        """Move what the guest needs into the sandbox's own config.json, since the namespaces of the node are not
        the guest's.
        """
        add_errno(config["linux"].get("seccomp"))
        if str(spec.id) != str(spec.sandbox.id):
            return
        sandbox = spec.sandbox.config
        config["hostname"] = sandbox.hostname or self._host.hostname
        if sandbox.linux.sysctls:
            config["linux"]["sysctl"] = dict(sandbox.linux.sysctls)
        shm = files_of(self._pod(SandboxId(spec.id)), spec.sandbox)[_SHM]
        config["mounts"].append({"destination": _SHM, "type": "bind", "source": shm, "options": ["rbind", "rprivate", "rw"]})

    def _pod_cgroup(self, pod: Path) -> str:
        """As `MeasuredPods._pod_cgroup`; without a parent it is the cgroup that kata creates for the sandbox."""
        if parent := super()._pod_cgroup(pod):
            return parent
        folder = posixpath.join(posixpath.dirname(self._folder(pod / "pause")), f"kata_{pod.name}")
        return folder if self._cgroups.exists(folder) else ""

    def _passed(self, annotations: Mapping[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in annotations.items()
            if not name.startswith(_OURS) and any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)
        }


def add_errno(seccomp: dict[str, Any] | None) -> None:
    """Set EPERM where an ERRNO action of linux.seccomp has no number: kata's guest would use 0, and the call would succeed.

    The runtime specification has EPERM as the default of `errnoRet` and `defaultErrnoRet`.
    """
    if seccomp is None:
        return
    if seccomp.get("defaultAction") == _ERRNO:
        seccomp.setdefault("defaultErrnoRet", errno.EPERM)
    for rule in seccomp.get("syscalls", ()):
        if rule["action"] == _ERRNO:
            rule.setdefault("errnoRet", errno.EPERM)


def sizes(resources: Resources | None) -> dict[str, str]:
    """The annotations for the pod's sums. The overhead is the node's, and already in the pod's cgroup."""
    if resources is None:
        return {}
    return {name: str(getattr(resources, field)) for name, field in _SIZE.items() if getattr(resources, field)}
