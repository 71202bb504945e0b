"""runc-compatible runtimes on a Linux node: conmon as monitor, pinned namespaces, no pause process.

Options: `runtime` (a program, found on PATH; default `runc`), `runtime_args` (a list of its global arguments), `systemd_cgroup`
(default false), `gvisor` (whether the runtime is gVisor's; by default what is named `runsc` is).
"""

import contextlib
import shutil
from pathlib import Path
from typing import Final

from crishim.backends.runc.command import RuntimeCommand
from crishim.backends.runc.exec import become_subreaper
from crishim.backends.runc.runsc import GvisorPods, RunscRuntime
from crishim.backends.runc.runtime import RuncRuntime
from crishim.errors import CrishimError, InvalidArgument
from crishim.interfaces.backend import Backend, BackendContext
from crishim.oci.ignores import ignores
from crishim.oci.machine import host
from crishim.oci.measured import MeasuredPods

__all__ = ["RuncRuntime", "RunscRuntime", "RuntimeCommand", "build", "ignores"]

needs_node = True

_OPTIONS: Final = frozenset({"runtime", "runtime_args", "systemd_cgroup", "gvisor"})


def build(context: BackendContext) -> Backend:
    """The backend. Makes this process a child subreaper, since exec'd processes are left to us by the runtime.

    Raises `InvalidArgument` naming an option that it does not know.
    """
    if unknown := context.options.keys() - _OPTIONS:
        raise InvalidArgument(f"options.{min(unknown)}", f"is not known; known: {', '.join(sorted(_OPTIONS))}")
    program = str(context.options.get("runtime", "runc"))
    systemd = bool(context.options.get("systemd_cgroup", False))
    root = context.runtime_state / "runtime"
    with contextlib.suppress(CrishimError):
        become_subreaper()
    args = [str(argument) for argument in context.options.get("runtime_args", ())]
    command = RuntimeCommand(shutil.which(program) or program, root, systemd_cgroup=systemd, args=args)
    machine = host(systemd_cgroup=systemd)
    gvisor = bool(context.options.get("gvisor", Path(program).name == "runsc"))
    sockets = context.runtime_state / "s"
    if gvisor:
        return GvisorPods(RunscRuntime(command, sockets, machine), context, machine)
    return MeasuredPods(RuncRuntime(command, sockets, machine), context, machine)
