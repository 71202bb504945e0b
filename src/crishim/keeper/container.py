"""One container of the keeper: how its process is started, and how it ended. Standard library only."""

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

from crishim.keeper.streams import GRACE, KeeperStreams

_CGROUPS = "/sys/fs/cgroup"

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any


class KeeperContainer:
    """A container, from `keep` or `adopt` to `forget`.

    `creator` is the pid of a program that creates the process and ends; 0 if there is none, or it has ended. `pid` is 0 before
    the creation and for streams without a process. `exit` has `code`, `at` (nanoseconds since the epoch) and `oom`.
    """

    __slots__ = (
        *("_counted", "_events", "_folder", "complaints", "console", "creator", "exit"),
        *("given_up", "writers", "name", "pid", "pid_file", "status", "streams", "waiting"),
    )

    def __init__(self, name: str, streams: KeeperStreams, folder: str = "") -> None:
        self.name = name
        self.streams = streams
        self._folder = folder
        self._events = ""
        self._counted = 0
        self.pid = 0
        self.creator = 0
        self.pid_file = ""
        self.given_up = False
        """Whether the container is forgotten when its creator has ended."""
        self.console: socket.socket | None = None
        self.complaints = -1
        self.status: tuple[int, int] | None = None
        """The exit code and its time, once the process has exited."""
        self.exit: dict[str, Any] | None = None
        """The same once all output is in the log and the exit is in its file."""
        self.waiting: list[Any] = []
        self.writers: list[int] = []
        """Writing ends of pipes of others, without which the output would end before its writer has come."""

    def open(self, request: "dict[str, Any]", theirs: list[int]) -> "tuple[int, int, int] | str":
        """Make the streams; what the process gets, of which `theirs` is closed after its start."""
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        theirs.append(nothing)
        if request["terminal"] and request["pid_file"]:
            self.console = socket.socket(socket.AF_UNIX)
            self.console.bind(request["console"])
            self.console.listen(1)
            self.console.setblocking(False)
            self.complaints = os.memfd_create("complaints")
            return nothing, self.complaints, self.complaints
        if request["terminal"]:
            master, slave = os.openpty()
            theirs.append(slave)
            self.take_terminal(master)
            return os.ttyname(slave)
        given = [nothing]
        for stream in ("stdin", "stdout", "stderr"):
            if stream != "stdin" or request["stdin"]:
                read, write = os.pipe()
                ours, end = (write, read) if stream == "stdin" else (read, write)
                theirs.append(end)
                self.streams.take(stream, ours)
                given.append(end)
        return given[-3], given[-2], given[-1]

    def created(self, pid: int) -> None:
        """The process is there."""
        self._close_creation()
        self.streams.begin()
        self.pid = pid
        self._events = events_of(pid)
        self._counted = kills(self._events)

    def exited(self, code: int, at: int, ended: Callable[[], None]) -> None:
        """The process has exited. `ended` is called when all its output is in the log, and its exit in the file."""
        self.status = (code, at)
        self.streams.drain(time.monotonic() + GRACE, lambda: self._record(ended))

    def resume(self, ended: Callable[[], None]) -> None:
        """After `load`: as `exited`, if it has."""
        if self.status is not None and self.exit is None:
            self.streams.drain(self.streams.deadline or 0.0, lambda: self._record(ended))

    def _record(self, ended: Callable[[], None]) -> None:
        assert self.status is not None
        code, at = self.status
        oom = code == 128 + signal.SIGKILL and kills(self._events) > self._counted
        self.exit = {"code": code, "at": at, "oom": oom}
        try:
            if self._folder:
                self._write_files(code, at, oom=oom)
        except OSError as error:  # a full disk, or a folder that is gone, concerns this container alone
            sys.stderr.write(f"the exit of {self.name} cannot be written: {error}\n")
        self.streams.close()
        ended()

    def _write_files(self, code: int, at: int, *, oom: bool) -> None:
        """Write the files that conmon writes: `exit` with the code, at whose time it ended, and `oom` before it."""
        if oom:
            os.close(os.open(f"{self._folder}/oom", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        new = f"{self._folder}/exit.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, str(code).encode())
        finally:
            os.close(fd)
        os.utime(new, ns=(at, at))
        os.rename(new, f"{self._folder}/exit")

    def release(self) -> None:
        """Close the writing ends."""
        for fd in self.writers:
            os.close(fd)
        self.writers = []

    def close(self) -> None:
        """Close all descriptors."""
        self.release()
        self.streams.close()
        self._close_creation()

    def complaint(self, limit: int) -> str:
        """What a creator that has failed has written to stderr."""
        if self.complaints < 0:
            return self.streams.complaint(limit)
        return os.pread(self.complaints, limit, 0).decode("utf-8", "replace")

    def take_console(self) -> None:
        """Take the terminal that the creator has sent. Raises `BlockingIOError` if it has sent none."""
        assert self.console is not None
        connected, _ = self.console.accept()
        with connected:
            connected.setblocking(False)
            _, fds, _, _ = socket.recv_fds(connected, 4096, 1)
        for fd in fds:
            self.take_terminal(fd)

    def take_terminal(self, master: int) -> None:
        """Own the master side of the process's terminal."""
        os.set_inheritable(master, False)
        self.streams.take("stdin", os.dup(master))
        self.streams.take("stdout", master)

    def _close_creation(self) -> None:
        if self.console is not None:
            console, self.console = self.console, None
            with console:
                try:
                    os.unlink(console.getsockname())
                except FileNotFoundError:  # it was not bound, or is gone
                    pass
        if self.complaints >= 0:
            os.close(self.complaints)
            self.complaints = -1

    def dump(self) -> "dict[str, Any]":
        """The container as JSON has it, for a successor with the same descriptors."""
        names = (
            "name",
            "_folder",
            "_events",
            "_counted",
            "pid",
            "creator",
            "pid_file",
            "complaints",
            "given_up",
            "writers",
            "status",
            "exit",
        )
        return {
            **{name: getattr(self, name) for name in names},
            "console": -1 if self.console is None else self.console.fileno(),
            "streams": self.streams.dump(),
        }

    def load(self, dumped: "dict[str, Any]") -> None:
        """Take over what `dump` gave; who waits is not in it."""
        for name, value in dumped.items():
            if name not in {"streams", "console"}:
                setattr(self, name, value)
        if dumped["console"] >= 0:
            self.console = socket.socket(fileno=dumped["console"])

    def descriptors(self) -> list[int]:
        """All of them."""
        own = [*self.writers, self.complaints, -1 if self.console is None else self.console.fileno()]
        return [*self.streams.descriptors(), *(fd for fd in own if fd >= 0)]


def spawn(request: "dict[str, Any]", streams: "tuple[int, int, int] | str") -> int:
    """Start a request's program in a session of its own, with stdin, stdout and stderr, or with a terminal by its path.

    Its soft limit of open files is the request's: the keeper's own is higher. Raises `OSError`.
    """
    if isinstance(streams, str):  # the leader of a session gets the terminal that it opens as its controlling one
        actions = [(os.POSIX_SPAWN_OPEN, 0, streams, os.O_RDWR, 0), (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
    else:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)]
    own, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.chdir(request["cwd"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(request["soft"], hard) if request["soft"] > 0 else own, hard))
    try:
        return os.posix_spawn(
            request["program"],
            request["argv"],
            request["env"],
            file_actions=actions,
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            setsigmask=[],
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (own, hard))
        os.chdir("/")


def is_child(pid: int) -> bool:
    """Whether this process is the one to collect another's exit, which is left to be collected."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def read_text(path: str) -> str:
    """The content of a small file; empty if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def read_number(path: str) -> int:
    """The number in a file; 0 if there is none."""
    text = read_text(path).strip()
    return int(text) if text.isdigit() else 0


def events_of(pid: int) -> str:
    """The file with the counter of out-of-memory kills of a process's cgroup; empty if it has none."""
    for line in read_text(f"/proc/{pid}/cgroup").splitlines():
        number, controllers, folder = line.split(":", 2)
        if number == "0" and os.access(f"{_CGROUPS}/cgroup.controllers", os.F_OK):
            return f"{_CGROUPS}{folder}/memory.events"
        if "memory" in controllers.split(","):
            return f"{_CGROUPS}/memory{folder}/memory.oom_control"
    return ""


def kills(events: str) -> int:
    """How many processes of a cgroup the out-of-memory killer has killed."""
    for line in read_text(events).splitlines() if events else ():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return 0
