"""What /proc tells of processes: who descends from whom, and what they use (proc(5), /proc/pid/stat)."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs

_PROC: Final = Path("/proc")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen
class Identity:
    """A process for good: its pid, and when it started in clock ticks since the boot, since pids are used again."""

    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.pid} {self.start}"

    @classmethod
    def parse(cls, text: str) -> "Identity | None":
        """The process that `str` has written; None for any other text."""
        try:
            pid, start = map(int, text.split())
        except ValueError:
            return None
        return cls(pid, start)


@attrs.frozen(kw_only=True)
class Process:
    """A process as it is just now. Times are clock ticks, with those of children it has waited for; `rss` is bytes."""

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
        """Its number."""
        return self.identity.pid


def read(pid: int) -> Process | None:
    """The process of this number; None if there is none that we may see. One that ended and was not waited for is there."""
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
    """Whether this very process has not ended."""
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
    """Return when this process has ended, be it our child or not; at once if there is none."""
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    try:
        process = read(identity.pid)  # held open, so that no other can take the pid any more
        if process is not None and process.identity == identity:
            loop.add_reader(fd, gone.set)
            await gone.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def read_pid(file: Path) -> int:
    """The pid in a pid file; 0 where there is none."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def record(file: Path, pid: int) -> Identity | None:
    """Write down which process has this pid now; None, and nothing written, if it is gone. Raises `OSError`."""
    process = read(pid)
    if process is None:
        return None
    new = file.with_name(f"{file.name}.new")
    new.write_text(str(process.identity), encoding="ascii")
    new.replace(file)
    return process.identity


def recorded(file: Path) -> Identity | None:
    """The process that was written down in a file; None where there is no such file."""
    try:
        return Identity.parse(file.read_text(encoding="ascii"))
    except OSError:
        return None


def everybody() -> Mapping[int, Process]:
    """All processes by number. One look at each: some may have come or gone meanwhile."""
    found = (read(int(name)) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - a Path for each is slower
    return {process.pid: process for process in found if process is not None}


def with_variable(name: str, value: str) -> list[Identity]:
    """The processes whose programs were started with this variable in their environment, as far as we may see."""
    wanted, found = os.fsencode(f"{name}={value}"), []
    for process in everybody().values():
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(process.pid) / "environ").read_bytes().split(b"\0"):
                found.append(process.identity)
    return found


def family(roots: Iterable[Identity], processes: Mapping[int, Process]) -> list[Process]:
    """The roots, what is in their sessions, what descends from any of these, and what is in sessions that those lead.

    A root may have gone; its number is then known to be its session's only as long as no other process has it.
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
    """SIGKILL for the whole family, also for those who come to it meanwhile: who was killed can start no other.

    A thread looks at every process of the node, and ends its work also when the caller is cancelled.
    """
    await asyncio.to_thread(kill_family_now, tuple(roots))


def kill_family_now(roots: Collection[Identity]) -> None:
    """As `kill_family`, in the caller's thread. Blocks."""
    killed: set[Identity] = set()
    while True:
        left = [member for member in family(roots, everybody()) if not member.ended and member.identity not in killed]
        if not left:
            return
        for member in left:
            send(member.identity, signal.SIGKILL)
            killed.add(member.identity)


async def lives(roots: Collection[Identity]) -> bool:
    """Whether anybody of the family still runs. A thread looks at every process of the node."""
    processes = await asyncio.to_thread(everybody)
    return any(not member.ended for member in family(roots, processes))


def send(identity: Identity, number: int) -> None:
    """Send a signal to this process and no other. What has ended takes no harm, and what may not be signalled neither."""
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
    """The kernel's name for this boot: numbers and start times of another one mean nothing."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
