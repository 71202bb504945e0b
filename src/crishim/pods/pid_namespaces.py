"""PID namespaces that containers join: the pause's of their pod, or that of another container.

Both are joined by a pin: `pid` in the pod's folder for the pause's, as long as the pod is there; `pid` in the bundle for a
target's, during the creation. Where a runtime's sandbox has the PID namespace inside, as gVisor and VMs have it, there is no
file, and the path only says that the pod's is meant.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crishim.errors import CrishimError, FailedPrecondition
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux import pins, processes
from crishim.model.container import ContainerSpec
from crishim.model.security import NamespaceMode, NamespaceOption
from crishim.model.values import SandboxId

_PIN: Final = "pid"


class PidNamespaces:
    """Those of the containers with bundles in `bundles`, and of the pods with folders in `pods`."""

    def __init__(self, bundles: Path, pods: Path) -> None:
        self._bundles = bundles
        self._pods = pods

    def of_pod(self, sandbox_id: SandboxId) -> Path:
        """Where a pod's own is pinned."""
        return self._pods / sandbox_id / _PIN

    def path(self, spec: ContainerSpec) -> str:
        """What a container joins; empty for a namespace of its own, and for the node's."""
        mode = pid_options(spec).pid
        if mode is NamespaceMode.TARGET:
            return str(self._bundles / spec.id / _PIN)
        shared = mode is NamespaceMode.POD and spec.sandbox.namespaces.pid is NamespaceMode.POD
        return str(self.of_pod(spec.sandbox.id)) if shared else ""

    @contextlib.contextmanager
    def joined(self, spec: ContainerSpec) -> Iterator[None]:
        """Around a container's creation: its path leads to what it joins.

        Raises `FailedPrecondition` where the process has ended that keeps the namespace alive, also for a creation that has
        failed meanwhile, and where a target is in the node's own namespace, which only NODE may ask for.
        """
        self._check(spec)
        pin = self._bundles / spec.id / _PIN
        try:
            if pid_options(spec).pid is NamespaceMode.TARGET:
                self._pin_target(pid_options(spec).target_id, pin)
            yield
        except CrishimError:
            self._check(spec)
            raise
        finally:
            pins.unpin(pin)

    def forget(self, bundle: Path) -> None:
        """Let go of what a creation has left that was broken off."""
        pins.unpin(bundle / _PIN)

    def _check(self, spec: ContainerSpec) -> None:
        options, sandbox_id = pid_options(spec), spec.sandbox.id
        if options.pid is NamespaceMode.TARGET:
            owner, subject = self._bundles / options.target_id, f"target container {options.target_id}"
        elif self.path(spec) and self.of_pod(sandbox_id).exists():
            owner, subject = self._pods / sandbox_id / "pause", f"the PID namespace of sandbox {sandbox_id}"
        else:
            return
        process = processes.recorded(owner / FIRST_PROCESS)
        if process is None or not processes.runs(process):
            raise FailedPrecondition("ended", "running", subject)

    def _pin_target(self, target_id: str, pin: Path) -> None:
        process = processes.recorded(self._bundles / target_id / FIRST_PROCESS)
        if process is None or not pins.pin(process, "pid", pin):
            raise FailedPrecondition("the node's own", "a container's", f"the PID namespace of container {target_id}")


def pid_options(spec: ContainerSpec) -> NamespaceOption:
    """Which namespaces a container has asked for."""
    return spec.security.namespace_options if spec.security else spec.sandbox.namespaces
