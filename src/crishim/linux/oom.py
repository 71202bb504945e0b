"""Which processes the out-of-memory killer has killed, by the kernel's log (/dev/kmsg, Documentation/ABI/testing/dev-kmsg).

A cgroup counts these kills without the pid, and systemd removes the cgroup of a scope with its counters as soon as its last
process has exited. The log still has the pid, as in the initial PID namespace.
"""

import os
import re
import time
from pathlib import Path
from typing import Final

from crishim.linux.processes import Identity

LOG: Final = Path("/dev/kmsg")

_KILLED: Final = re.compile(rb"(\d+),\d+,(\d+),[^;]*;(?:Memory cgroup out|Out) of memory: Killed process (\d+) ")
_RECORD: Final = 8192
_FROM_USERS: Final = 8
"""Records from user space have a facility: their numbers start here."""

_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
"""Its inode (PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h)."""

_DRIFT: Final = 0.999
"""Tolerance for the log's clock, which is not corrected as that of processes' start times is."""


def killed_for_memory(process: Identity) -> bool:
    """Whether the kernel's log has an out-of-memory kill of a process. False if the log cannot be read."""
    if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:  # noqa: PTH116 - a file of /proc
        return False
    suspended = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    started = process.start / os.sysconf("SC_CLK_TCK") - suspended
    return any(pid == process.pid and at >= _DRIFT * started - 1 for pid, at in kills(LOG))


def kills(log: Path) -> list[tuple[int, float]]:
    """All kills in the log: pid, and seconds since the boot."""
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        matches = [_KILLED.match(record) for record in iter(lambda: _next(fd), b"")]
    except OSError:
        return []
    finally:
        os.close(fd)
    return [(int(kill[3]), int(kill[2]) / 1e6) for kill in matches if kill is not None and int(kill[1]) < _FROM_USERS]


def _next(fd: int) -> bytes:
    """The next record; empty if there is none yet."""
    while True:
        try:
            return os.read(fd, _RECORD)
        except BlockingIOError:
            return b""
        except BrokenPipeError:  # the record was overwritten: the next read continues after it
            continue
