"""runc-compatible runtimes on a Linux node: conmon or the keeper as monitor, pinned namespaces, no pause process.

Options: `runtime` (a program, looked up on PATH; default `runc`), `runtime_args` (a list of its global arguments),
`gvisor` (whether the runtime is gVisor's; by default true for a program named `runsc`), `monitor` (`conmon`, the default, or
`keeper`: the process with a container's streams, log and exit while no server runs), `ulimits` (a table of default limits by
name, each a number or [soft, hard], as `nofile = [1024, 65536]`).

The plug-in is in `pods`, and the OciRuntime in `runtime`. Each is imported at the first use of one of its names: the shim's
daemon needs the runtime only, without pods.
"""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from crishim.backends.runc.command import RuntimeCommand
    from crishim.backends.runc.pods import plugin
    from crishim.backends.runc.runsc import RunscRuntime
    from crishim.backends.runc.runtime import RuncRuntime

_HOMES = {
    "RuncRuntime": "runtime",
    "RunscRuntime": "runsc",
    "RuntimeCommand": "command",
    "plugin": "pods",
}

__all__ = ["RuncRuntime", "RunscRuntime", "RuntimeCommand", "plugin"]


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
