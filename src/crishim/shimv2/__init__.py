"""containerd's shim v2, both sides: driving somebody's shims, and being one. `run` is an author's whole main()."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crishim.shimv2.main import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crishim.shimv2.main import run

    return run
