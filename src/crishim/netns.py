"""setns(2) for network namespaces.

A thread of its own enters the namespace and ends afterwards, so that no other code ever runs in the wrong one. What is done
inside is short: making a socket (which stays in its namespace wherever it is used), reading a counter.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from crishim.errors import NotFound, PermissionDenied, Unknown

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_IFREQ: Final = "16sH22x"

_libc = ctypes.CDLL(None, use_errno=True)


def is_network_namespace(path: str) -> bool:
    """Whether a namespace is pinned at `path`; a pin that was unmounted is an ordinary file."""
    try:
        return Path(path).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except OSError:
        return False


def inside(path: str, work: Callable[[], T]) -> T:
    """What `work` gives or raises in the network namespace at `path`; blocks the caller as long as `work` lasts.

    Raises `NotFound` where there is no such namespace, and `PermissionDenied`.
    """
    answers: list[T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            _enter(path)
            answers.append(work())
        except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
            failures.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]


def raise_loopback(path: str) -> None:
    """Set the `lo` of the namespace at `path` up, which gives it its addresses. Raises as `inside`."""

    def raise_it() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            told = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack(_IFREQ, b"lo", 0))
            flags = struct.unpack(_IFREQ, told)[1]
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack(_IFREQ, b"lo", flags | _IFF_UP))

    inside(path, raise_it)


def _enter(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound("network namespace", path) from error
    try:
        if _libc.setns(fd, _CLONE_NEWNET):
            number = ctypes.get_errno()
            if number == errno.EINVAL:
                raise NotFound("network namespace", path)
            raise (PermissionDenied if number == errno.EPERM else Unknown)(f"setns to {path}: {os.strerror(number)}")
    finally:
        os.close(fd)
