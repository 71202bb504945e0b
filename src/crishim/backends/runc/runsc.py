"""gVisor by its command line: RunscRuntime, and pods over it.

The processes of a pod run in one sandbox, which is created with the container that stands for the pod; the others join it by
annotations. The processes of a container are not visible on the host, so gVisor is queried for them. It does not change limits,
and can only freeze whole pods, so neither capability is offered.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.backends.runc import holder
from crishim.backends.runc.command import last_error
from crishim.backends.runc.exec import AdoptedChild
from crishim.backends.runc.runtime import MonitoredRuntime
from crishim.errors import CrishimError, Unavailable, Unknown
from crishim.interfaces.backend import BackendContext, BackendInfo
from crishim.linux.processes import read_pid
from crishim.model.container import ContainerSpec
from crishim.model.features import Feature
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import NamespaceMode
from crishim.model.stats import CgroupUsage
from crishim.monitor.client import read_pipe
from crishim.oci.facts import Host, NamespacePaths
from crishim.pods.usage import MeasuredPods

_OF_THE_NODE: Final = frozenset(
    {
        Feature.APPARMOR,
        Feature.SELINUX,
        Feature.HOST_PID,
        Feature.HOST_IPC,
        Feature.TARGET_PID,
        Feature.MASKED_PATHS,
        Feature.SYSCTLS,
        Feature.BIDIRECTIONAL_MOUNTS,
    }
)
"""Features of the node's kernel, which the containers do not use: gVisor's own has other processes and mounts, and its own
/proc.
"""


class RunscRuntime(MonitoredRuntime):
    """Runs the bundles of `GvisorPods` with gVisor's `runsc`, each member of a pod behind a holder.

    AppArmor profiles and SELinux labels belong to the node's kernel, which the containers do not use. Their seccomp filters are
    loaded into gVisor's kernel only with its option `--oci-seccomp`.

    It reports no exit for a bundle outside of a pod, since gVisor's sandbox outlives its first process: these need gVisor's
    shim.
    """

    async def probe(self) -> BackendInfo:
        """As `MonitoredRuntime.probe`."""
        info = await super().probe()
        return attrs.evolve(info, supported=info.supported - _OF_THE_NODE)

    def _monitored(self) -> tuple[str, tuple[str, ...]]:
        return sys.executable, ("-IS", holder.__file__, *self._command.line)

    async def start(self, container_id: str) -> None:
        """As `OciRuntime.start`, through the container's holder if it has one."""
        bundle = await self._bundle(container_id)
        if not (bundle / holder.START).exists():
            await super().start(container_id)
            return
        started = os.open(bundle / holder.STARTED, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            bid(bundle, holder.GO)
        except OSError as error:
            os.close(started)
            raise Unavailable(f"the holder of {container_id} has exited") from error
        answer = await read_pipe(started)
        if answer != holder.OK:
            raise Unknown(last_error(answer.decode("utf-8", "replace"), "the container's holder has died"))

    async def delete(self, container_id: str) -> None:
        """As `OciRuntime.delete`; the holder of a member exits first."""
        with contextlib.suppress(OSError, CrishimError):  # it has exited already, or there is none
            bid(await self._bundle(container_id), holder.LEAVE)
        await super().delete(container_id)

    async def cgroup_usage(self, container_id: str) -> CgroupUsage:
        """As `SupportsCgroupUsage.cgroup_usage`: the sandbox's counters for one container; memory is that of the whole
        sandbox.
        """
        stats = (await self._command.json(container_id, "events", "--stats", container_id)).get("data", {})
        return CgroupUsage(
            cpu=stats.get("cpu", {}).get("usage", {}).get("total", 0),
            memory=stats.get("memory", {}).get("usage", {}).get("usage"),
            tasks=stats.get("pids", {}).get("current"),
        )

    def _exec_args(self, folder: Path) -> list[str]:
        return [*super()._exec_args(folder), f"--internal-pid-file={folder / 'inside'}"]

    def _adopted(self, container_id: str, folder: Path) -> AdoptedChild:
        inside = read_pid(folder / "inside")
        return AdoptedChild(read_pid(folder / "pid"), kill=lambda: self._kill_family(container_id, inside))

    async def _kill_family(self, container_id: str, first: int) -> None:
        """Kill a process and its descendants by their pids in the sandbox."""
        with contextlib.suppress(CrishimError):
            table = (await self._command.run(container_id, "ps", container_id)).decode("utf-8", "replace")
            for pid in descendants(table, first):
                with contextlib.suppress(CrishimError):
                    await self._command.run(container_id, "kill", f"--pid={pid}", container_id, "9")


class GvisorPods(MeasuredPods):
    """Pods in gVisor's sandboxes. gVisor finds a shared PID namespace by equal paths in the bundles; the path need not
    exist.
    """

    def __init__(self, runtime: RunscRuntime, context: BackendContext, host: Host) -> None:
        super().__init__(runtime, context, host, sandbox_container=True)

    def _pod_namespaces(self, spec: SandboxSpec) -> NamespacePaths:
        paths = super()._pod_namespaces(spec)
        return attrs.evolve(paths, pid=str(self._pids.of_pod(spec.id))) if spec.namespaces.pid is NamespaceMode.POD else paths

    def _finish_config(self, spec: ContainerSpec, config: dict[str, Any]) -> None:
        """GVisor's kernel has a host name of its own, which is not that of the UTS namespace that it runs in."""
        super()._finish_config(spec, config)
        config["hostname"] = spec.sandbox.config.hostname or self._host.hostname


def bid(bundle: Path, word: bytes) -> None:
    """Send a command to a container's holder. Raises `OSError` if it has none."""
    descriptor = os.open(bundle / holder.START, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(descriptor, word)
    finally:
        os.close(descriptor)


def descendants(table: str, first: int) -> list[int]:
    """A process and its descendants, parents first. `table` has columns PID and PPID."""
    head, *rows = table.splitlines() or [""]
    names = head.split()
    pid, parent = names.index("PID"), names.index("PPID")
    family = [first]
    numbers = [(int(row.split()[pid]), int(row.split()[parent])) for row in rows if row.strip()]
    for ancestor in family:
        family.extend(child for child, owner in numbers if owner == ancestor and child not in family)
    return family
