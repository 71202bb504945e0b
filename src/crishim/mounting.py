"""mount(2), umount2(2) and mount_setattr(2): ten times cheaper than the commands."""

import ctypes
import os
import sys
from pathlib import Path

from crishim.libc import last_error, libc

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
"""The same numbers on every machine, as of all system calls since Linux 5.1."""
_OPEN_TREE_CLONE, _AT_EMPTY_PATH, _AT_FDCWD, _MOVE_MOUNT_F_EMPTY_PATH = 1, 0x1000, -100, 4
_MOUNT_ATTR_IDMAP = 0x100000
_STATX_SIZE, _STATX_ATTRIBUTES, _STATX_ATTRIBUTES_MASK, _STATX_ATTR_MOUNT_ROOT = 256, 8, 56, 0x2000
"""Linux's `struct statx`: its size, the offsets of two 64-bit fields, and the attribute that Linux has since 5.8."""


def is_mount_root(path: Path | str) -> bool:
    """Whether something is mounted at a path, a folder bound onto itself too; False where there is nothing at all.

    `os.path.ismount` compares devices, and so misses every bind within one file system.
    """
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if libc.statx(_AT_FDCWD, os.fsencode(path), 0, 0, buffer):
        return False
    attributes, known = (
        int.from_bytes(buffer[offset : offset + 8], sys.byteorder) for offset in (_STATX_ATTRIBUTES, _STATX_ATTRIBUTES_MASK)
    )
    if known & _STATX_ATTR_MOUNT_ROOT:
        return bool(attributes & _STATX_ATTR_MOUNT_ROOT)
    return os.path.realpath(path) in _mount_points()


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Raises `PermissionDenied`, `ResourceExhausted`, or `Unknown` with the kernel's word."""
    done = libc.mount(
        os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), os.fsencode(data) or None
    )
    if done:
        raise last_error(f"mounting {kind or source} on {target}")


def mount_idmapped(source: Path, target: Path, userns: str) -> None:
    """Mount a folder with the ids of the user namespace at path `userns`: what is 0's in `source` is its 0's at `target`.

    Raises as `mount`; not every file system can do this.
    """
    what = f"mounting {source} on {target} with ids of its own"
    tree = libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    if tree < 0:
        raise last_error(what)
    try:
        namespace = os.open(userns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            wanted = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_IDMAP, 0, 0, namespace)
            done = libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(wanted), ctypes.sizeof(wanted))
        finally:
            os.close(namespace)
        if done or libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH):
            raise last_error(what)
    finally:
        os.close(tree)


def unmount(target: Path | str) -> bool:
    """Let go of a mount, lazily; whether there was one."""
    return bool(libc.umount2(os.fsencode(target), _MNT_DETACH) == 0)


def unmount_below(folder: Path) -> None:
    """Let go of every mount at and below a folder, the innermost first."""
    points = [point for point in _mount_points() if point == str(folder) or point.startswith(f"{folder}/")]
    for point in sorted(points, key=len, reverse=True):
        unmount(point)


def _mount_points() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [line.split(" ")[4].encode().decode("unicode_escape", "surrogateescape") for line in lines]
