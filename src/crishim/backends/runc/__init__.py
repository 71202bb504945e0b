"""runc-compatible runtimes on a Linux node: conmon as monitor, pinned namespaces, no pause process.

Options: `runtime` (a program, found on PATH; default `runc`), `runtime_args` (a list of its global arguments), `systemd_cgroup`
(default false), `gvisor` (whether the runtime is gVisor's; by default what is named `runsc` is), `ulimits` (a table of default
limits by name, each a number or [soft, hard], as `nofile = [1024, 65536]`).

The plug-in is in `plugin`. It is imported when somebody asks for one of its names: whoever wants the runtime alone (`runtime`),
as the shim daemon does, has no use for pods.
"""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from crishim.backends.runc.plugin import build, check, ignores, needs_node

__all__ = ["build", "check", "ignores", "needs_node"]


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crishim.backends.runc import plugin

    return getattr(plugin, name)
