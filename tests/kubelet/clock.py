"""A processor's clock for the kubelet on a machine whose /proc/cpuinfo has none, as User Mode Linux: it does not start without.

The kubelet alone sees the file. A mount anywhere below /proc keeps user namespaces that begin below it from mounting a proc of
their own (mount_too_revealing in the kernel's fs/namespace.c), and so pods from having one.
"""

from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")
_BIND: Final = 'mount --make-private /proc && mount --bind "$0" /proc/cpuinfo && exec "$@"'


def with_clock(place: Path) -> list[str]:
    """What a command begins with, to have the clock; its file is put into a folder. All other mounts are ours as well."""
    processors = CPUINFO.read_text()
    if "MHz" in processors:
        return []
    (place / "cpuinfo").write_text(f"{processors.rstrip()}\ncpu MHz\t\t: 1000.000\n\n")
    return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", _BIND, str(place / "cpuinfo")]
