"""gVisor by its own command line: RunscRuntime, and the pods made with it.

A pod's processes live in one sandbox, which is made with the container that stands for the pod; the others join it by their
annotations. What a process on the host would tell of a container, gVisor must be asked for. It changes no limits, and freezes
nothing less than a pod, so neither is offered.
"""

import contextlib
import os
import sys
from pathlib import Path

import attrs

from crishim.backends.runc import holder
from crishim.backends.runc.command import last_error
from crishim.backends.runc.exec import AdoptedChild
from crishim.backends.runc.runtime import MonitoredRuntime
from crishim.errors import CrishimError, InvalidArgument, Unavailable, Unknown
from crishim.interfaces.backend import BackendContext, BackendInfo
from crishim.linux.processes import read_pid
from crishim.model.container import ContainerSpec
from crishim.model.features import Feature
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import NamespaceMode
from crishim.model.stats import CgroupUsage
from crishim.monitor.client import read_pipe
from crishim.oci.facts import Host, NamespacePaths
from crishim.pods.pid_namespaces import pid_options
from crishim.pods.usage import MeasuredPods


class RunscRuntime(MonitoredRuntime):
    """Runs the bundles of `GvisorPods` with gVisor's `runsc`, each member of a pod behind a holder.

    AppArmor profiles and SELinux labels are of the node's kernel, which its containers do not see. Their seccomp filters are
    loaded into gVisor's own by its option `--oci-seccomp` alone.

    Of a bundle that is in no pod it tells no exit, since gVisor's sandbox outlives its first process: gVisor's own shim is for
    those.
    """

    async def probe(self) -> BackendInfo:
        """As `MonitoredRuntime.probe`."""
        info = await super().probe()
        return attrs.evolve(info, supported=info.supported - {Feature.APPARMOR, Feature.SELINUX})

    def _monitored(self) -> tuple[str, tuple[str, ...]]:
        return sys.executable, ("-IS", holder.__file__, *self._command.line)

    async def start(self, container_id: str) -> None:
        """As `OciRuntime.start`, by the container's holder where it has one."""
        bundle = await self._bundle(container_id)
        if not (bundle / holder.START).exists():
            await super().start(container_id)
            return
        told = os.open(bundle / holder.STARTED, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            bid(bundle, holder.GO)
        except OSError as error:
            os.close(told)
            raise Unavailable(f"the holder of {container_id} is gone") from error
        answer = await read_pipe(told)
        if answer != holder.OK:
            raise Unknown(last_error(answer.decode("utf-8", "replace"), "the container's holder has died"))

    async def delete(self, container_id: str) -> None:
        """As `OciRuntime.delete`; a member's holder leaves first."""
        with contextlib.suppress(OSError, CrishimError):  # it has left already, or there is none
            bid(await self._bundle(container_id), holder.LEAVE)
        await super().delete(container_id)

    async def cgroup_usage(self, container_id: str) -> CgroupUsage:
        """As `SupportsCgroupUsage.cgroup_usage`: what the sandbox counts for one container; memory is the whole sandbox's."""
        told = (await self._command.json(container_id, "events", "--stats", container_id)).get("data", {})
        return CgroupUsage(
            cpu=told.get("cpu", {}).get("usage", {}).get("total", 0),
            memory=told.get("memory", {}).get("usage", {}).get("usage"),
            tasks=told.get("pids", {}).get("current"),
        )

    def _exec_args(self, folder: Path) -> list[str]:
        return [*super()._exec_args(folder), f"--internal-pid-file={folder / 'inside'}"]

    def _adopted(self, container_id: str, folder: Path) -> AdoptedChild:
        inside = read_pid(folder / "inside")
        return AdoptedChild(read_pid(folder / "pid"), kill=lambda: self._kill_family(container_id, inside))

    async def _kill_family(self, container_id: str, first: int) -> None:
        """Kill a process of the sandbox and all that it has started, as the sandbox numbers them."""
        with contextlib.suppress(CrishimError):
            table = (await self._command.run(container_id, "ps", container_id)).decode("utf-8", "replace")
            for pid in descendants(table, first):
                with contextlib.suppress(CrishimError):
                    await self._command.run(container_id, "kill", f"--pid={pid}", container_id, "9")


class GvisorPods(MeasuredPods):
    """Pods in gVisor's sandboxes, which know a shared PID namespace by the path in their bundles; nothing need be there."""

    def __init__(self, runtime: RunscRuntime, context: BackendContext, host: Host) -> None:
        super().__init__(runtime, context, host, sandbox_container=True)

    def _pod_namespaces(self, spec: SandboxSpec) -> NamespacePaths:
        paths = super()._pod_namespaces(spec)
        return attrs.evolve(paths, pid=str(self._pids.of_pod(spec.id))) if spec.namespaces.pid is NamespaceMode.POD else paths

    def _namespaces(self, spec: ContainerSpec) -> NamespacePaths:
        if pid_options(spec).pid is NamespaceMode.TARGET:
            raise InvalidArgument("config.linux.security_context.namespace_options.pid", "TARGET is not gVisor's to give")
        return super()._namespaces(spec)


def bid(bundle: Path, word: bytes) -> None:
    """Tell a container's holder what to do. Raises `OSError` where nobody holds."""
    descriptor = os.open(bundle / holder.START, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(descriptor, word)
    finally:
        os.close(descriptor)


def descendants(table: str, first: int) -> list[int]:
    """A process and all that descend from it, by the columns PID and PPID of a table; parents before their children."""
    head, *rows = table.splitlines() or [""]
    names = head.split()
    pid, parent = names.index("PID"), names.index("PPID")
    family = [first]
    numbers = [(int(row.split()[pid]), int(row.split()[parent])) for row in rows if row.strip()]
    for ancestor in family:
        family.extend(child for child, owner in numbers if owner == ancestor and child not in family)
    return family
