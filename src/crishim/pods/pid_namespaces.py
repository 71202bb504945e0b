"""PID namespaces that containers join: that of their pod's pause process, or that of another container.

Both are joined by a pin: `pid` in the pod's folder for the pod's, as long as the pod exists; `pid` in the bundle for a
target's, during the creation. If a runtime's sandbox has the PID namespace inside (gVisor, VMs), there is no file, and the path
only states that the pod's namespace is meant.
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
    """The PID namespaces of the containers with bundles in `bundles`, and of the pods with folders in `pods`."""

    def __init__(self, bundles: Path, pods: Path) -> None:
        self._bundles = bundles
        self._pods = pods

    def of_pod(self, sandbox_id: SandboxId) -> Path:
        """The file to which the PID namespace of a pod is bound."""
        return self._pods / sandbox_id / _PIN

    def path(self, spec: ContainerSpec) -> str:
        """The path of the namespace that a container joins; empty for one of its own, and for the node's."""
        mode = pid_options(spec).pid
        if mode is NamespaceMode.TARGET:
            return str(self._bundles / spec.id / _PIN)
        shared = mode is NamespaceMode.POD and spec.sandbox.namespaces.pid is NamespaceMode.POD
        return str(self.of_pod(spec.sandbox.id)) if shared else ""

    @contextlib.contextmanager
    def joined(self, spec: ContainerSpec) -> Iterator[None]:
        """Makes the path of the namespace valid for the creation of a container.

        Raises `FailedPrecondition` if the first process of the namespace has ended, also after the creation has failed, and if
        a target uses the node's namespace, for which only NODE may ask.
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
        """Remove the pin that an interrupted creation has left."""
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
    """The namespace options of a container's configuration."""
    return spec.security.namespace_options if spec.security else spec.sandbox.namespaces
