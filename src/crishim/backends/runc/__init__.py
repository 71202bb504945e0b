"""runc-compatible runtimes on a Linux node: conmon as monitor, pinned namespaces, no pause process.

Options: `runtime` (a program, found on PATH; default `runc`), `runtime_args` (a list of its global arguments),
`gvisor` (whether the runtime is gVisor's; by default what is named `runsc` is), `ulimits` (a table of default
limits by name, each a number or [soft, hard], as `nofile = [1024, 65536]`).

The plug-in is in `plugin`, and the OciRuntime in `runtime`. Each is imported when somebody asks for one of its names: whoever
wants the runtime alone, as the shim daemon does, has no use for pods.
"""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from crishim.backends.runc.command import RuntimeCommand
    from crishim.backends.runc.plugin import build, check, ignores, needs_node
    from crishim.backends.runc.runsc import RunscRuntime
    from crishim.backends.runc.runtime import RuncRuntime

_HOMES = {
    "RuncRuntime": "runtime",
    "RunscRuntime": "runsc",
    "RuntimeCommand": "command",
    "build": "plugin",
    "check": "plugin",
    "ignores": "plugin",
    "needs_node": "plugin",
}

__all__ = ["RuncRuntime", "RunscRuntime", "RuntimeCommand", "build", "check", "ignores", "needs_node"]


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
