"""runc-compatible runtimes on a Linux node: conmon as monitor, pinned namespaces, no pause process.

Options: `runtime` (a program, found on PATH; default `runc`), `systemd_cgroup` (default false).
"""

import contextlib
import shutil
from typing import Final

from crishim.backends.runc.command import RuntimeCommand
from crishim.backends.runc.exec import become_subreaper
from crishim.backends.runc.runtime import RuncRuntime
from crishim.errors import CrishimError, InvalidArgument
from crishim.interfaces.backend import Backend, BackendContext
from crishim.oci.ignores import ignores
from crishim.oci.machine import host
from crishim.oci.measured import MeasuredPods

__all__ = ["RuncRuntime", "RuntimeCommand", "build", "ignores"]

needs_node = True

_OPTIONS: Final = frozenset({"runtime", "systemd_cgroup"})


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
    command = RuntimeCommand(shutil.which(program) or program, root, systemd_cgroup=systemd)
    machine = host(systemd_cgroup=systemd)
    return MeasuredPods(RuncRuntime(command, context.runtime_state / "s", machine), context, machine)
