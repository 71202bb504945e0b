"""The one owner of this process's children.

All code that starts a program, adopts an orphan or waits for an exit does it here: `start` and `spawn` for programs, `adopt`
for processes that a program leaves to this process as their subreaper. Each such child is waited for by its own pidfd and
reaped once, by its owner; nothing here waits for "any child" or scans processes for the exit of one child.

Some orphans arrive unannounced: leftovers of a dead shim, and descendants of processes that share our PID namespace. They are
reaped as well, since a zombie keeps its PID namespace from ending. They are distinguished as follows from children that other
code of this program has started (`subprocess` in some thread), whose exits belong to that code:

- a child in our own session is never reaped: programs started here have sessions of their own, so it cannot be an orphan;
- a child in a session that is neither ours nor led by the child is an orphan: a direct child can only be the leader;
- the leader of its session is an orphan if it is in another PID namespace; otherwise it may be either, and is reaped when it
  has been a zombie for `GRACE` seconds;
- a child that was started after a program in `expecting` began may be the process that the program leaves: it is not reaped.

Linux gives orphans to the first thread of their subreaper, so this works if the event loop runs in the main thread; elsewhere
unannounced orphans stay zombies.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from crishim.errors import NotFound
from crishim.linux.processes import Identity, Process, read
from crishim.linux.programs import find_program
from crishim.linux.syscalls import last_error, libc

__all__ = ["Child", "Children", "become_subreaper", "children"]

GRACE: Final = 10.0
"""Seconds for which a zombie that may be a direct child of other code is left to that code."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37
_WNOTHREAD: Final = 0x20000000
_PAUSE: Final = 0.02
"""Seconds between a child's exit and the search for orphans, in which the child's owner reaps it."""
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


def become_subreaper() -> None:
    """Make this process the subreaper of its descendants, so that their exits can be collected.

    Raises `PermissionDenied` if the kernel refuses.
    """
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise last_error("becoming a child subreaper")


@contextlib.contextmanager
def orphans_left_to_others() -> Iterator[None]:
    """Inside, orphans of this process's descendants go to the next subreaper above it, or to process 1, and not to this one."""
    was = ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(was), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, was.value, 0, 0, 0)


async def end_program(process: asyncio.subprocess.Process, *, group: bool = False) -> None:
    """Kill a program of `Children.start`, unless it has ended, with its process group if `group`; collect it, close its pipes.

    A descendant may still have the other ends of the pipes: `wait` would wait for that, in Python 3.11.
    """
    with contextlib.suppress(ProcessLookupError):  # asyncio has collected it, and its exit code was not read yet
        if not group:
            process.kill()
        elif process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    transport = process._transport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no public way to it
    for number in range(3):
        if (pipe := transport.get_pipe_transport(number)) is not None and not pipe.is_closing():
            (pipe.close if number else pipe.abort)()
    await process.wait()


def watch_by_pidfd() -> None:
    """Have asyncio wait for its programs by pidfd instead of by a thread for each; the default since Python 3.12."""
    if sys.version_info < (3, 12):
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)


class Child:
    """A child of this process, from its start or adoption until `collect` or `disown`.

    `identity` stays valid until the child is reaped: the kernel does not reuse its pid before.
    """

    def __init__(self, owner: "Children", identity: Identity, pidfd: int) -> None:
        self.identity = identity
        self._owner = owner
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ended(self) -> None:
        """Return when the child has exited. Several callers may wait, also after it was reaped; a wait may be cancelled."""
        if self._loop is None and self._pidfd >= 0:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._pidfd, self._note_end)
        await self._ended.wait()

    def send(self, number: int) -> None:
        """Send a signal, if the child runs. Raises `PermissionError`, and `OSError` for an invalid signal."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def returncode(self) -> int | None:
        """The exit status as in `subprocess`; None if it has not exited or is not our child. Does not reap."""
        return self._wait(os.WNOWAIT)

    def collect(self) -> int | None:
        """Reap the child, once: its `returncode`, or None if it has not exited or is not our child."""
        code = self._wait(0)
        self.disown()
        return code

    def disown(self) -> None:
        """Give up ownership: when the child exits it is reaped like any other orphan."""
        if self._pidfd < 0:
            return
        self._note_end()
        os.close(self._pidfd)
        self._pidfd = -1
        self._owner.forget(self)

    def _note_end(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._pidfd)
        self._ended.set()

    def _wait(self, option: int) -> int | None:
        try:
            status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | option) if self._pidfd >= 0 else None
        except ChildProcessError:
            return None
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status


class Children:
    """All children that this module waits for. There is one object per process, `children`, since children belong to the
    process.
    """

    def __init__(self) -> None:
        self._owned: dict[int, Child] = {}
        self._programs: dict[int, asyncio.subprocess.Process] = {}
        self._expecting: dict[object, float] = {}
        self._zombies: dict[Identity, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: AsyncGenerator[None, None] | None = None
        self._look: asyncio.TimerHandle | None = None

    async def start(self, *argv: str | Path, **options: Any) -> asyncio.subprocess.Process:
        """Start a program, as `asyncio.create_subprocess_exec` does, in a session of its own.

        asyncio waits for it, by its pid. Raises `FileNotFoundError` if it is missing, and `OSError` if it cannot be run.
        """
        self._attach()
        program = _program(str(argv[0]), options)
        process = await asyncio.create_subprocess_exec(*argv, executable=program, start_new_session=True, **options)
        self._programs[process.pid] = process
        return process

    def spawn(self, argv: list[str], **options: Any) -> Child:
        """Start a program, as `subprocess.Popen` does; the caller waits for it by the returned `Child`. Raises as `start`."""
        process = subprocess.Popen(argv, executable=_program(argv[0], options), **options)
        process.returncode = 0  # its exit is read by its pidfd: Popen must not wait for it when it is deleted
        return self.adopt(process.pid)

    def adopt(self, pid: int) -> Child:
        """Own a process that is or will be left to this process: the caller collects its exit. At most one owner for each.

        Raises `NotFound` if there is no such process.
        """
        self._attach()
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise NotFound("process", str(pid)) from error
        process = read(pid)
        if process is None:
            os.close(pidfd)
            raise NotFound("process", str(pid))
        child = Child(self, process.identity, pidfd)
        self._owned[pid] = child
        return child

    def collect_at_end(self, pid: int) -> None:
        """Reap a process that is or will be left to this process when it exits; nothing uses its exit status."""
        self._attach()
        try:
            child = self.adopt(pid)
        except NotFound:
            return
        task = asyncio.get_running_loop().create_task(child.ended())
        task.add_done_callback(lambda _: child.collect())

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Surround a program that leaves a process to this one, to be adopted before the end of the block."""
        mark = object()
        self._expecting[mark] = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            yield
        finally:
            del self._expecting[mark]
            self.wake()

    def wake(self) -> None:
        """Search for orphans soon."""
        self._look_in(_PAUSE)

    def forget(self, child: Child) -> None:
        """Drop a child that was reaped or disowned, and search for its orphans."""
        if self._owned.get(child.identity.pid) is child:
            del self._owned[child.identity.pid]
        self.wake()

    def _attach(self) -> None:
        """Watch SIGCHLD on the running loop, if it is the main thread's and no other handler is installed."""
        loop = asyncio.get_running_loop()
        if loop is self._loop or threading.current_thread() is not threading.main_thread():
            return
        self._loop, self._look = loop, None
        if signal.getsignal(signal.SIGCHLD) in {signal.SIG_DFL, None}:
            self._watch = _calling(self.wake, loop)
            with contextlib.suppress(StopIteration):
                self._watch.__anext__().send(None)

    def _collect_orphans(self) -> None:
        self._look = None
        self._programs = {pid: process for pid, process in self._programs.items() if process.returncode is None}
        if not _first_zombie():
            return
        now, later = time.monotonic(), 0.0
        zombies = {}
        for process in _zombie_children(self._owned.keys() | self._programs.keys()):
            since = self._zombies.get(process.identity, now)
            wait = self._wait_for(process, since, now)
            if wait is None:
                continue
            if wait > 0:
                zombies[process.identity] = since
                later = min(later or wait, wait)
            else:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG)
        self._zombies = zombies
        if later:
            self._look_in(later)

    def _look_in(self, seconds: float) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        if self._look is not None:
            if self._look.when() <= self._loop.time() + seconds:
                return
            self._look.cancel()
        self._look = self._loop.call_later(seconds, self._collect_orphans)

    def _wait_for(self, zombie: Process, since: float, now: float) -> float | None:
        """Seconds until a zombie without an owner is reaped; None for one that is not an orphan of ours."""
        if zombie.session == os.getsid(0):
            return None
        if self._expecting and (zombie.identity.start + 1) * _TICK >= min(self._expecting.values()):
            return _PAUSE
        if zombie.session != zombie.pid or _in_other_pid_namespace(zombie.pid):
            return 0
        return max(0.0, since + GRACE - now)


async def _calling(call: Callable[[], None], loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
    """Call on SIGCHLD until the loop shuts down its asynchronous generators, as `asyncio.run` does.

    The loop itself removes a handler only after it has closed the pipe that the signal is written to: a child that exits in
    between has Python print an error.
    """
    loop.add_signal_handler(signal.SIGCHLD, call)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)


def _program(name: str, options: dict[str, Any]) -> str:
    """The program to execute for `name` with the options of `subprocess.Popen`."""
    if "/" in name:
        return name
    if not (path := find_program(name, env=options.get("env"), cwd=str(options.get("cwd") or ""))):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return path


def _first_zombie() -> int:
    """The pid of the first zombie among the children of this thread; 0 if there is none. Does not reap."""
    try:
        status = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WNOTHREAD)
    except ChildProcessError:
        return 0
    return 0 if status is None else status.si_pid


def _zombie_children(exclude: set[int]) -> Iterator[Process]:
    """The zombies among the children of this thread, with all their threads ended. The caller may reap each.

    As long as it does, the kernel names the next one. All children, of which a node has one for each container, are looked
    through only if the first zombie stays.
    """
    seen: set[int] = set()
    while (pid := _first_zombie()) not in exclude | seen:
        if not pid:
            return
        seen.add(pid)
        if (process := read(pid)) is not None:
            yield process
    text = Path("/proc/thread-self/children").read_text(encoding="ascii")
    for pid in map(int, text.split()):
        if pid not in exclude | seen and (process := read(pid)) is not None and process.ended:
            yield process


def _in_other_pid_namespace(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.startswith("NSpid:") and len(line.split()) > 2 for line in status.splitlines())


children: Final = Children()
"""The children of this process."""
