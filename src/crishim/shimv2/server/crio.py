"""What CRI-O expects of the shim of its handlers of the type `vm`, and containerd does not (internal/oci/runtime_vm.go)."""

import contextlib
from pathlib import Path
from typing import Final

from crishim.errors import DataLoss
from crishim.pods.bundle import read_config

_KIND: Final = "io.kubernetes.cri-o.ContainerType"


def has_made(bundle: Path) -> bool:
    """Whether a bundle is CRI-O's: it takes no error for the signal to a process that has exited meanwhile."""
    try:
        return _KIND in read_config(bundle).get("annotations", {})
    except DataLoss:
        return False


def note_oom(bundle: Path) -> None:
    """Write the file by which CRI-O, which takes no events, knows that a container was killed for want of memory."""
    with contextlib.suppress(OSError):
        (bundle / "oom").touch()
