"""containerd's shim v2, both sides: the client drives shims, the server is one. `run` is the whole main() of an
author's shim.
"""

TYPE_CHECKING = False
"""True for type checkers only: importing `typing` would slow the launcher down."""

if TYPE_CHECKING:
    from typing import Any

    from crishim.shimv2.server.run import run

__all__ = ["run"]


def __getattr__(name: str) -> "Any":
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crishim.shimv2.server.run import run

    return run
