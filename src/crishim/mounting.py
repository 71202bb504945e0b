"""mount(2) and umount2(2): ten times cheaper than the commands."""

import ctypes
import os
from pathlib import Path

from crishim.errors import PermissionDenied, ResourceExhausted, Unknown

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Raises `PermissionDenied`, `ResourceExhausted`, or `Unknown` with the kernel's word."""
    done = _libc.mount(
        os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), os.fsencode(data) or None
    )
    if done:
        number = ctypes.get_errno()
        text = f"mounting {kind or source} on {target}: {os.strerror(number)}"
        if number in {1, 13}:
            raise PermissionDenied(text)
        raise (ResourceExhausted if number in {12, 28} else Unknown)(text)


def unmount(target: Path | str) -> bool:
    """Let go of a mount, lazily; whether there was one."""
    return bool(_libc.umount2(os.fsencode(target), _MNT_DETACH) == 0)


def unmount_below(folder: Path) -> None:
    """Let go of every mount at and below a folder, the innermost first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape", "surrogateescape")
        if point == str(folder) or point.startswith(f"{folder}/"):
            points.append(point)
    for point in sorted(points, key=len, reverse=True):
        unmount(point)
