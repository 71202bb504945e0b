"""Files of a container's root file system, resolved as by a process with that root: no path leads out of it."""

import ctypes
import errno
import os
import stat
from pathlib import Path
from typing import Final

from crishim.linux.syscalls import last_os_error, libc

__all__ = ["open_in_root", "path_in_root", "program_in_root", "read_in_root"]

_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_IN_ROOT: Final = 0x10
_TRIES: Final = 10
"""The kernel returns EAGAIN if something is renamed at the same time (openat2(2))."""

_LONGEST: Final = 1 << 20


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: Path, path: str, flags: int) -> int:
    """A descriptor of a path below a root. Links are followed, absolute ones from the root. Raises `OSError`."""
    how = _How(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        error = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
        for _ in range(_TRIES):
            descriptor = libc.syscall(_OPENAT2, folder, os.fsencode(path) or b".", ctypes.byref(how), ctypes.sizeof(how))
            if descriptor >= 0:
                return int(descriptor)
            error = last_os_error()
            if error.errno != errno.EAGAIN:
                break
        raise error
    finally:
        os.close(folder)


def path_in_root(root: Path, path: str) -> Path:
    """The path on the host, without links, of `path` below a root. Raises `OSError`."""
    descriptor = open_in_root(root, path, os.O_PATH)
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    finally:
        os.close(descriptor)


def read_in_root(root: Path, path: str) -> bytes:
    """The content of a file of a root file system; empty if it does not exist or is not a regular file. At most 1 MiB."""
    try:
        # The image may have a named pipe there; opening it must not wait for a writer.
        with open(open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            return file.read(_LONGEST) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return b""


def program_in_root(root: Path, name: str, path: str, cwd: str = "/") -> Path:
    """The path on the host of a program of a root file system, as execvp(3) finds it there.

    `path` is the value of PATH; relative names and folders start at `cwd`. Raises `FileNotFoundError`, or `PermissionError` for
    a file that is not executable.
    """
    error: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    folders = [""] if "/" in name else path.split(":")
    for place in (os.path.join("/", cwd, folder, name) for folder in folders):  # noqa: PTH118 - a path inside of the root
        try:
            found = path_in_root(root, place)
        except OSError:
            continue
        if found.is_file() and found.stat().st_mode & 0o111:
            return found
        error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    raise error
