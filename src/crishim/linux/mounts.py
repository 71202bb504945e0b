"""The mount table, and mounting and unmounting by system calls, which cost a tenth of the commands.

Mounts are found in mountinfo (proc_pid_mountinfo(5)) or by statx(2). `os.path.ismount` and other comparisons of devices miss
every bind mount within one file system.
"""

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Final

import attrs

from crishim.linux.syscalls import last_error, libc

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 4096, 16384, 1 << 18, 1 << 20
_MNT_DETACH = 2
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
"""System call numbers, the same on every architecture as for all system calls since Linux 5.1."""
_OPEN_TREE_CLONE, _AT_EMPTY_PATH, _AT_FDCWD, _MOVE_MOUNT_F_EMPTY_PATH = 1, 0x1000, -100, 4
_AT_NO_AUTOMOUNT = 0x800
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_IDMAP, _AT_RECURSIVE = 1, 0x100000, 0x8000
_STATX_SIZE, _STATX_ATTRIBUTES, _STATX_ATTRIBUTES_MASK, _STATX_ATTR_MOUNT_ROOT = 256, 8, 56, 0x2000
"""Linux's `struct statx`: its size, the offsets of two 64-bit fields, and an attribute that exists since Linux 5.8."""
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


@attrs.frozen(kw_only=True)
class MountPoint:
    """One line of mountinfo. Paths are decoded, with surrogateescape for bytes that are not UTF-8.

    `root` is the mounted path within the file system; `optional` are the fields `shared:N`, `master:N`, ...; `device` is
    `major:minor`, `kind` the file system's type, `super_options` are the file system's own.
    """

    id: int
    parent: int
    device: str
    root: str
    path: str
    options: tuple[str, ...]
    optional: tuple[str, ...]
    kind: str
    source: str
    super_options: tuple[str, ...]

    @property
    def shared(self) -> bool:
        """Whether mounts below it propagate to its peers."""
        return any(field.startswith("shared:") for field in self.optional)

    @property
    def slave(self) -> bool:
        """Whether mounts below its master propagate to it."""
        return any(field.startswith("master:") for field in self.optional)


def parse_mountinfo(text: bytes) -> list[MountPoint]:
    """The lines of a mountinfo, in order."""
    return [_parsed(line) for line in text.split(b"\n") if line]


def read_mounts() -> list[MountPoint]:
    """All mounts of this process's mount namespace below its root."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())


def mounts_below(folder: Path | str) -> list[MountPoint]:
    """The mounts at and below a folder, whose links are resolved as by mount(2)."""
    real = os.path.realpath(folder)
    return [mount for mount in read_mounts() if mount.path == real or mount.path.startswith(f"{real.rstrip('/')}/")]


def mount_of(path: Path | str, mounts: list[MountPoint]) -> MountPoint | None:
    """The one of `mounts` on which a path is; None if it is not among them. Raises `OSError` for a missing path."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").splitlines()
    finally:
        os.close(descriptor)
    number = next(int(line.partition(":")[2]) for line in lines if line.startswith("mnt_id:"))
    return next((mount for mount in mounts if mount.id == number), None)


def is_mount_root(path: Path | str) -> bool:
    """Whether a path is a mount point; False also for a missing path. Links are followed."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if libc.statx(_AT_FDCWD, os.fsencode(path), _AT_NO_AUTOMOUNT, 0, buffer):
        return False
    attributes, known = (
        int.from_bytes(buffer.raw[offset : offset + 8], sys.byteorder) for offset in (_STATX_ATTRIBUTES, _STATX_ATTRIBUTES_MASK)
    )
    if known & _STATX_ATTR_MOUNT_ROOT:
        return bool(attributes & _STATX_ATTR_MOUNT_ROOT)
    return os.path.realpath(path) in {mount.path for mount in read_mounts()}


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount a file system. Raises `PermissionDenied`, `ResourceExhausted`, or `Unknown` with the kernel's error."""
    done = libc.mount(
        os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), os.fsencode(data) or None
    )
    if done:
        raise last_error(f"mounting {kind or source} on {target}")


def mount_idmapped(source: Path, target: Path, userns: str) -> None:
    """Mount a folder with the ids mapped by the user namespace at path `userns`: id 0 in `source` is the namespace's id 0 at
    `target`.

    Raises as `mount`; some file systems do not support it.
    """
    what = f"mounting {source} on {target} with ids of its own"
    tree = libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    if tree < 0:
        raise last_error(what)
    try:
        namespace = os.open(userns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_IDMAP, 0, 0, namespace)
            done = libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), ctypes.sizeof(attributes))
        finally:
            os.close(namespace)
        if done or libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH):
            raise last_error(what)
    finally:
        os.close(tree)


def make_tree_read_only(target: Path) -> None:
    """Make a mount and all below it read-only; MS_RDONLY is for the topmost alone. Needs Linux 5.12. Raises as `mount`."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    words = (_AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if libc.syscall(_MOUNT_SETATTR, *words):
        raise last_error(f"making {target} read-only")


def unmount(target: Path | str) -> bool:
    """Unmount the topmost mount at a path and all below it, lazily; return whether there was one."""
    return bool(libc.umount2(os.fsencode(target), _MNT_DETACH) == 0)


def unmount_entries(folder: Path) -> None:
    """Unmount everything from the entries of a folder, also stacked mounts. The node's other mounts are not read."""
    with os.scandir(folder) as entries:
        for entry in entries:
            while is_mount_root(entry.path) and unmount(entry.path):
                pass


def unmount_below(folder: Path) -> None:
    """Unmount every mount at and below a folder, the innermost first; also hidden ones."""
    while mounts := mounts_below(folder):
        # every mount point is tried, since one that cannot be unmounted may be below one that can
        done = [unmount(point) for point in sorted((mount.path for mount in mounts), key=len, reverse=True)]
        if not any(done):
            return


def _parsed(line: bytes) -> MountPoint:
    fields = [_decoded(field) for field in line.split(b" ")]
    end = fields.index("-", 6)
    kind, source, super_options = fields[end + 1 : end + 4]
    return MountPoint(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=fields[2],
        root=fields[3],
        path=fields[4],
        options=tuple(fields[5].split(",")),
        optional=tuple(fields[6:end]),
        kind=kind,
        source=source,
        super_options=tuple(super_options.split(",")),
    )


def _decoded(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), field))
