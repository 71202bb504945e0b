"""What is mounted where, and mounting and unmounting by system calls, which are ten times cheaper than the commands.

What is mounted is asked of mountinfo (proc_pid_mountinfo(5)) or of statx(2). `os.path.ismount` and other comparisons of devices
miss every bind within one file system.
"""

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Final

import attrs

from crishim.linux.syscalls import last_error, libc

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
"""The same numbers on every machine, as of all system calls since Linux 5.1."""
_OPEN_TREE_CLONE, _AT_EMPTY_PATH, _AT_FDCWD, _MOVE_MOUNT_F_EMPTY_PATH = 1, 0x1000, -100, 4
_AT_NO_AUTOMOUNT = 0x800
_MOUNT_ATTR_IDMAP = 0x100000
_STATX_SIZE, _STATX_ATTRIBUTES, _STATX_ATTRIBUTES_MASK, _STATX_ATTR_MOUNT_ROOT = 256, 8, 56, 0x2000
"""Linux's `struct statx`: its size, the offsets of two 64-bit fields, and the attribute that Linux has since 5.8."""
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


@attrs.frozen(kw_only=True)
class MountPoint:
    """One line of mountinfo. Paths are decoded, bytes that are no UTF-8 by surrogateescape.

    `root` is the path within the file system that is mounted; `optional` are the fields `shared:N`, `master:N`, ...;
    `device` is `major:minor`, `kind` the file system's type, `super_options` are the file system's own.
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
        """Whether what is mounted below it appears on its peers too."""
        return any(field.startswith("shared:") for field in self.optional)

    @property
    def slave(self) -> bool:
        """Whether what is mounted below its master appears on it too."""
        return any(field.startswith("master:") for field in self.optional)


def parse_mountinfo(text: bytes) -> list[MountPoint]:
    """The lines of a mountinfo, in their order."""
    return [_parsed(line) for line in text.split(b"\n") if line]


def read_mounts() -> list[MountPoint]:
    """All mounts of this process's mount namespace that lie below its root."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())


def mounts_below(folder: Path | str) -> list[MountPoint]:
    """The mounts at and below a folder, whose links are resolved as mount(2) does."""
    real = os.path.realpath(folder)
    return [mount for mount in read_mounts() if mount.path == real or mount.path.startswith(f"{real.rstrip('/')}/")]


def mount_of(path: Path | str, mounts: list[MountPoint]) -> MountPoint | None:
    """The one of `mounts` in which a path lies; None where it is not among them. Raises `OSError` where there is no path."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").splitlines()
    finally:
        os.close(descriptor)
    number = next(int(line.partition(":")[2]) for line in lines if line.startswith("mnt_id:"))
    return next((mount for mount in mounts if mount.id == number), None)


def is_mount_root(path: Path | str) -> bool:
    """Whether something is mounted at a path; False also where there is no such path. Links are followed."""
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
    """Let go of the topmost mount at a path and of all below it, lazily; whether there was one."""
    return bool(libc.umount2(os.fsencode(target), _MNT_DETACH) == 0)


def unmount_entries(folder: Path) -> None:
    """Let go of what is mounted at the entries of a folder, also in several layers. The node's other mounts are not read."""
    with os.scandir(folder) as entries:
        for entry in entries:
            while is_mount_root(entry.path) and unmount(entry.path):
                pass


def unmount_below(folder: Path) -> None:
    """Let go of every mount at and below a folder, the innermost first; also of those that others hide."""
    while mounts := mounts_below(folder):
        # every point has its turn, since one that cannot be unmounted may lie below one that can
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
