"""Which processes the out-of-memory killer has killed, by the kernel's log (/dev/kmsg, Documentation/ABI/testing/dev-kmsg).

A cgroup counts these kills without the pid, and systemd removes the cgroup of a scope with its counters as soon as its last
process has exited. The log still has the pid, as in the initial PID namespace, until newer records overwrite it.
"""

import math
import os
import re
import time
from pathlib import Path
from typing import Final

import attrs

from crishim.linux.processes import Identity

LOG: Final = Path("/dev/kmsg")

_RECORD_HEAD: Final = re.compile(rb"(\d+),\d+,(\d+),[^;]*;(?:(?:Memory cgroup out|Out) of memory: Killed process (\d+) )?")
"""A record's level and facility, its microseconds since the boot, and the pid if it is of a kill."""

_RECORD: Final = 8192
_FROM_USERS: Final = 8
"""Records from user space have a facility: their numbers start here."""

_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
"""Its inode (PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h)."""

_DRIFT: Final = 0.999
"""Tolerance for the log's clock, which is not corrected as that of processes' start times is."""


@attrs.frozen
class Kills:
    """The out-of-memory kills in the log since its oldest record: pid, and seconds since the boot."""

    found: tuple[tuple[int, float], ...] = ()
    since: float = math.inf
    """Seconds since the boot; infinite if the log cannot be read, or is empty."""


def killed_for_memory(process: Identity, log: Path = LOG) -> bool | None:
    """Whether the out-of-memory killer has killed a process. None if the log does not tell: it cannot be read, or records since
    the process's start are overwritten, and the others have no kill of it.
    """
    if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:  # noqa: PTH116 - a file of /proc
        return None
    suspended = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    started = process.start / os.sysconf("SC_CLK_TCK") - suspended
    kills = read_kills(log)
    earliest = _DRIFT * started - 1
    if any(pid == process.pid and at >= earliest for pid, at in kills.found):
        return True
    return False if kills.since < earliest else None


def read_kills(log: Path) -> Kills:
    """All kills in the log."""
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Kills()
    found: list[tuple[int, float]] = []
    since = math.inf
    try:
        while True:
            try:
                record = os.read(fd, _RECORD)
            except BlockingIOError:  # there is no other yet
                record = b""
            except BrokenPipeError:  # records were overwritten: the next read continues after them
                since = math.inf
                continue
            if not record:
                return Kills(tuple(found), since)
            if (parsed := _RECORD_HEAD.match(record)) is None:
                continue
            level, at, pid = int(parsed[1]), int(parsed[2]) / 1e6, parsed[3]
            since = min(since, at)
            if pid is not None and level < _FROM_USERS:
                found.append((int(pid), at))
    except OSError:
        return Kills()
    finally:
        os.close(fd)
