"""setns(2) and unshare(2) for pods' network, IPC and UTS namespaces.

A thread of its own enters the namespaces and ends afterwards, so that no other code ever runs in them. The work inside is
short: creating a socket (which stays in its namespace), reading a counter, setting a hostname. A thread cannot enter user and
PID namespaces; that takes a process.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from crishim.errors import NotFound
from crishim.linux.syscalls import last_error, libc

T = TypeVar("T")

_FLAGS: Final = {"net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000}
_NS_GET_NSTYPE: Final = 0xB703
"""ioctl_nsfs(2): the CLONE_NEW flag of a namespace."""
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_IFREQ: Final = "16sH22x"


def is_network_namespace(path: str) -> bool:
    """Whether a network namespace is pinned at `path`; an unmounted pin is an ordinary file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _FLAGS["net"])
    except OSError:
        return False
    finally:
        os.close(descriptor)


def inside(paths: str | Iterable[str], work: Callable[[], T]) -> T:
    """Run `work` in the namespaces at these paths and return its result; blocks the caller.

    Raises what `work` raises, `NotFound` for a missing namespace, and `PermissionDenied`.
    """
    pins = [paths] if isinstance(paths, str) else list(paths)

    def enter() -> None:
        for path in pins:
            _enter(path)

    return _apart(enter, work)


def unshared(kinds: Iterable[str], work: Callable[[], T]) -> T:
    """Run `work` in new namespaces of these kinds, `net`, `ipc`, `uts`; otherwise as `inside`.

    They end afterwards, unless `work` bind-mounts them (from /proc/thread-self/ns).
    """
    flags = sum(_FLAGS[kind] for kind in set(kinds))

    def unshare() -> None:
        if libc.unshare(flags):
            raise last_error("unshare")

    return _apart(unshare, work)


def raise_loopback(path: str) -> None:
    """Bring up `lo` in the namespace at `path`, which gives it its addresses. Raises as `inside`."""

    def raise_it() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack(_IFREQ, b"lo", 0))
            flags = struct.unpack(_IFREQ, request)[1]
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack(_IFREQ, b"lo", flags | _IFF_UP))

    inside(path, raise_it)


def _apart(enter: Callable[[], None], work: Callable[[], T]) -> T:
    answers: list[T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            enter()
            answers.append(work())
        except Exception as error:  # noqa: BLE001 - raised again in the calling thread
            failures.append(error)

    thread = threading.Thread(target=run, name="namespaces")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]


def _enter(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound("namespace", path) from error
    try:
        if libc.setns(fd, 0):
            if ctypes.get_errno() == errno.EINVAL:
                raise NotFound("namespace", path)
            raise last_error(f"setns to {path}")
    finally:
        os.close(fd)
