"""The plug-in: its options are told at the head of the package."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from crishim.backends.runc.command import RuntimeCommand
from crishim.backends.runc.needs import findings
from crishim.backends.runc.runsc import GvisorPods, RunscRuntime
from crishim.backends.runc.runtime import RuncRuntime
from crishim.errors import CrishimError, InvalidArgument
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.checks import Finding
from crishim.linux.children import become_subreaper
from crishim.oci.ignores import ignores
from crishim.pods.host import host
from crishim.pods.usage import MeasuredPods

__all__ = ["build", "check", "ignores", "needs_node"]

needs_node = True

_OPTIONS: Final = frozenset({"runtime", "runtime_args", "systemd_cgroup", "gvisor", "ulimits"})
_ULIMITS: Final = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue"),
    *("nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)
"""setrlimit(2), without `RLIMIT_`."""


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
    command = RuntimeCommand(program, root, systemd_cgroup=systemd, args=args)
    machine = host(systemd_cgroup=systemd, rlimits=_rlimits(context.options.get("ulimits", {})))
    gvisor = bool(context.options.get("gvisor", Path(program).name == "runsc"))
    sockets = context.runtime_state / "s"
    if gvisor:
        return GvisorPods(RunscRuntime(command, sockets, machine), context, machine)
    return MeasuredPods(RuncRuntime(command, sockets, machine), context, machine)


def check() -> Iterable[Finding]:
    """What pods need of this machine."""
    return findings(Path("/"))


def _rlimits(wanted: Any) -> tuple[tuple[str, int, int], ...]:
    if not isinstance(wanted, Mapping):
        raise InvalidArgument("options.ulimits", "must be a table of limits by name")
    made = []
    for name, value in wanted.items():
        pair = [value, value] if isinstance(value, int) else list(value) if isinstance(value, list | tuple) else []
        if name not in _ULIMITS:
            raise InvalidArgument(f"options.ulimits.{name}", f"is not known; known: {', '.join(sorted(_ULIMITS))}")
        if len(pair) != 2 or not all(isinstance(number, int) and number >= 0 for number in pair) or pair[0] > pair[1]:
            raise InvalidArgument(f"options.ulimits.{name}", "must be a number, or [soft, hard] with soft not above hard")
        made.append((f"RLIMIT_{name.upper()}", pair[0], pair[1]))
    return tuple(made)
