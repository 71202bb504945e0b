"""What CRI-O expects of the shim of its handlers of the type `vm`, and containerd does not (internal/oci/runtime_vm.go)."""

import contextlib
from pathlib import Path

from crishim.errors import DataLoss
from crishim.oci.features import CRIO_KIND
from crishim.pods.bundle import read_config


def is_bundle_of_crio(bundle: Path) -> bool:
    """Whether a bundle is CRI-O's: it takes no error for the signal to a process that has exited meanwhile."""
    try:
        return CRIO_KIND in read_config(bundle).get("annotations", {})
    except DataLoss:
        return False


def write_oom_file(bundle: Path) -> None:
    """Write the file by which CRI-O, which takes no events, knows that a container was killed for want of memory."""
    with contextlib.suppress(OSError):
        (bundle / "oom").touch()
