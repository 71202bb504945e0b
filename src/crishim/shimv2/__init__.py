"""containerd's shim v2, both sides: driving somebody's shims, and being one. `run` is an author's whole main()."""

TYPE_CHECKING = False
"""True for type checkers alone: the launcher has no time for `typing`."""

if TYPE_CHECKING:
    from typing import Any

    from crishim.shimv2.server.run import run

__all__ = ["run"]


def __getattr__(name: str) -> "Any":
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crishim.shimv2.server.run import run

    return run
