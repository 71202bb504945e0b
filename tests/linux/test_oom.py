"""What the kernel's log says of kills for want of memory."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.linux import oom
from crishim.linux.oom import Kills, killed_for_memory, read_kills
from crishim.linux.processes import Identity, read

LOG = (
    b"6,811,100000000,-;memory: usage 16384kB, limit 16384kB, failcnt 42\n",
    b"3,812,100000100,-;Memory cgroup out of memory: Killed process 4711 (dd) total-vm:68180kB, anon-rss:15552kB\n",
    b"3,813,100500000,-;Out of memory: Killed process 12 (a) Killed process 13 (b) total-vm:1kB\n",
    b"12,814,100600000,-;Memory cgroup out of memory: Killed process 99 (dd) total-vm:1kB\n",
    b"6,815,100700000,-;eth0: Memory cgroup out of memory: Killed process 98 (dd) total-vm:1kB\n",
)
FIRST = b"5,0,1000,-;Linux version 6.1.0\n"
RECORD = 8192
"""What one read asks for."""


@pytest.fixture(autouse=True)
def initial_pid_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own namespace counts as the one whose pids the log has."""
    monkeypatch.setattr(oom, "_INITIAL_PID_NAMESPACE", os.stat("/proc/self/ns/pid").st_ino)  # noqa: PTH116 - a file of /proc


@contextlib.contextmanager
def log_of(place: Path, *records: bytes) -> Iterator[Path]:
    """A log with one of these records at each read; a fifo gives what is in it, and then nothing yet, as the kernel's does."""
    log = place / "kmsg"
    os.mkfifo(log)
    fd = os.open(log, os.O_RDWR)
    try:
        os.write(fd, b"".join(record.ljust(RECORD) for record in records))
        yield log
    finally:
        os.close(fd)


def this_process() -> Identity:
    """The identity of this process, which runs longer than a tick of the clock."""
    process = read(os.getpid())
    assert process is not None
    return process.identity


def kill_of(process: Identity, seconds: float) -> bytes:
    """A record of a process's kill, at a time since the boot."""
    return b"3,9,%d,-;Memory cgroup out of memory: Killed process %d (dd)\n" % (seconds * 1e6, process.pid)


def test_kills_are_found(tmp_path: Path) -> None:
    """A kill is known by the kernel's own line: what a user has written, or a process is named, makes none."""
    with log_of(tmp_path, *LOG) as log:
        assert Kills(found=((4711, 100.0001), (12, 100.5)), since=100.0) == read_kills(log)


def test_a_kill_of_this_process(tmp_path: Path) -> None:
    """A process was killed if the log has a kill of its pid since its start."""
    with log_of(tmp_path, FIRST, kill_of(this_process(), time.monotonic())) as log:
        assert killed_for_memory(this_process(), log) is True


def test_a_kill_of_an_earlier_process(tmp_path: Path) -> None:
    """A kill of its pid before its start is another process's; the log has all since then, so it was not killed."""
    with log_of(tmp_path, FIRST, kill_of(this_process(), 0.002)) as log:
        assert killed_for_memory(this_process(), log) is False


def test_an_overwritten_log(tmp_path: Path) -> None:
    """A log whose oldest record is younger than the process does not tell."""
    with log_of(tmp_path, b"6,9,%d,-;eth0: link is up\n" % (time.monotonic() * 1e6)) as log:
        assert killed_for_memory(this_process(), log) is None


def test_without_a_log(tmp_path: Path) -> None:
    """A log that is not there has no kill, and does not tell."""
    assert Kills() == read_kills(tmp_path / "none")
    assert killed_for_memory(this_process(), tmp_path / "none") is None
