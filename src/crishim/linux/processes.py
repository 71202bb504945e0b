"""Processes by /proc: their identity, descent and usage (proc(5), /proc/pid/stat)."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs

__all__ = ["Identity", "ended", "record", "recorded", "runs", "send"]

_PROC: Final = Path("/proc")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen
class Identity:
    """A process by its pid and its start time in clock ticks since the boot, since pids are reused."""

    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.pid} {self.start}"

    @classmethod
    def parse(cls, text: str) -> "Identity | None":
        """The identity in a string that `str` has made; None for any other string."""
        try:
            pid, start = map(int, text.split())
        except ValueError:
            return None
        return cls(pid, start)


@attrs.frozen(kw_only=True)
class Process:
    """The state of a process at one moment. Times are clock ticks, including reaped children; `rss` is bytes."""

    identity: Identity
    parent: int
    session: int
    ended: bool
    cpu: int
    minor_faults: int
    major_faults: int
    rss: int

    @property
    def pid(self) -> int:
        """The process's pid."""
        return self.identity.pid


def read(pid: int) -> Process | None:
    """The process with this pid; None if there is none, or if it is not visible. A zombie is returned too."""
    try:
        raw = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    state, *rest = raw[raw.rindex(b")") + 2 :].split()
    numbers = [int(number) for number in rest]
    return Process(
        identity=Identity(pid, numbers[18]),
        parent=numbers[0],
        session=numbers[2],
        ended=state in b"ZXx",
        cpu=sum(numbers[10:14]),
        minor_faults=numbers[6] + numbers[7],
        major_faults=numbers[8] + numbers[9],
        rss=numbers[20] * _PAGE,
    )


def runs(identity: Identity) -> bool:
    """Whether this process runs; false for a zombie."""
    process = read(identity.pid)
    return process is not None and process.identity == identity and not process.ended


def tracer(pid: int) -> Identity | None:
    """The process that traces this one (proc(5), TracerPid); None where there is none."""
    try:
        lines = (_PROC / str(pid) / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    number = next((int(line.split()[1]) for line in lines if line.startswith("TracerPid:")), 0)
    process = read(number) if number else None
    return None if process is None else process.identity


async def ended(identity: Identity) -> None:
    """Return when this process has exited, whether it is our child or not; at once if there is none."""
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    try:
        process = read(identity.pid)  # read after the pidfd is open, so that the pid cannot be reused any more
        if process is not None and process.identity == identity:
            loop.add_reader(fd, gone.set)
            await gone.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def read_pid(file: Path) -> int:
    """The pid in a pid file; 0 if there is none."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def record(file: Path, pid: int) -> Identity | None:
    """Record the identity of the process with this pid in a file; None, without a file, if it does not exist. Raises
    `OSError`.
    """
    process = read(pid)
    if process is None:
        return None
    new = file.with_name(f"{file.name}.new")
    new.write_text(str(process.identity), encoding="ascii")
    new.replace(file)
    return process.identity


def recorded(file: Path) -> Identity | None:
    """The identity recorded in a file; None if there is no such file."""
    try:
        return Identity.parse(file.read_text(encoding="ascii"))
    except OSError:
        return None


def all_processes() -> Mapping[int, Process]:
    """All processes by pid. Each is read once: some may start or exit meanwhile."""
    processes = (read(int(name)) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - a Path for each is slower
    return {process.pid: process for process in processes if process is not None}


def with_variable(name: str, value: str) -> list[Identity]:
    """The processes that were started with this variable in their environment, as far as visible."""
    entry, matches = os.fsencode(f"{name}={value}"), []
    for process in all_processes().values():
        with contextlib.suppress(OSError):
            if entry in (_PROC / str(process.pid) / "environ").read_bytes().split(b"\0"):
                matches.append(process.identity)
    return matches


def family(roots: Iterable[Identity], processes: Mapping[int, Process]) -> list[Process]:
    """The roots, the processes in their sessions, the descendants of all these, and the processes in sessions led by those.

    A root may have exited; its pid still names its session unless another process has taken it.
    """
    members: dict[int, Process] = {}
    sessions: set[int] = set()
    for root in roots:
        process = processes.get(root.pid)
        if process is None or process.identity == root:
            sessions.add(root.pid)
        if process is not None and process.identity == root:
            members[root.pid] = process
    grown = True
    while grown:
        grown = False
        for process in processes.values():
            if process.pid not in members and (process.session in sessions or process.parent in members):
                members[process.pid] = process
                if process.session == process.pid:
                    sessions.add(process.pid)
                grown = True
    return list(members.values())


async def kill_family(roots: Collection[Identity]) -> None:
    """Send SIGKILL to the whole family, including processes that are started meanwhile.

    A thread scans all processes of the node, and finishes also when the caller is cancelled.
    """
    await asyncio.to_thread(kill_family_now, tuple(roots))


def kill_family_now(roots: Collection[Identity]) -> None:
    """As `kill_family`, in the caller's thread. Blocks."""
    killed: set[Identity] = set()
    while True:
        left = [member for member in family(roots, all_processes()) if not member.ended and member.identity not in killed]
        if not left:
            return
        for member in left:
            send(member.identity, signal.SIGKILL)
            killed.add(member.identity)


async def lives(roots: Collection[Identity]) -> bool:
    """Whether a process of the family runs. A thread scans all processes of the node."""
    processes = await asyncio.to_thread(all_processes)
    return any(not member.ended for member in family(roots, processes))


def send(identity: Identity, number: int) -> None:
    """Send a signal to this process and no other. Does nothing if it has exited or may not be signalled."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError:
        return
    try:
        process = read(identity.pid)
        if process is not None and process.identity == identity:
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(pidfd)


def boot_id() -> str:
    """The kernel's id of this boot; pids and start times of another boot are invalid."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
