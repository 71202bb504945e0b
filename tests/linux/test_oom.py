"""What the kernel's log says of kills for want of memory."""

import os
from pathlib import Path

from crishim.linux.oom import killed_for_memory, kills
from crishim.linux.processes import read

LOG = (
    b"6,811,100000000,-;memory: usage 16384kB, limit 16384kB, failcnt 42\n",
    b"3,812,100000100,-;Memory cgroup out of memory: Killed process 4711 (dd) total-vm:68180kB, anon-rss:15552kB\n",
    b"3,813,100500000,-;Out of memory: Killed process 12 (a) Killed process 13 (b) total-vm:1kB\n",
    b"12,814,100600000,-;Memory cgroup out of memory: Killed process 99 (dd) total-vm:1kB\n",
    b"6,815,100700000,-;eth0: Memory cgroup out of memory: Killed process 98 (dd) total-vm:1kB\n",
)


def test_kills_are_found(tmp_path: Path) -> None:
    """A kill is known by the kernel's own line: what a user has written, or a process is named, makes none."""
    log = tmp_path / "kmsg"
    os.mkfifo(log)
    fd = os.open(log, os.O_RDWR)  # a fifo gives what is in it, and then nothing yet, as the log does
    try:
        found = []
        for record in LOG:
            os.write(fd, record)
            found += kills(log)
    finally:
        os.close(fd)
    assert [(4711, 100.0001), (12, 100.5)] == found


def test_without_a_log(tmp_path: Path) -> None:
    """Where the log is not there, or has nothing of a process, it was not killed."""
    assert [] == kills(tmp_path / "none")
    this = read(os.getpid())
    assert this is not None
    assert not killed_for_memory(this.identity)
