"""Processes: signals, execs, exits, and requests for a process's streams."""

import enum
import re
from typing import Final, TypeAlias

import attrs

from crishim.model.values import ContainerId, SandboxId

__all__ = [
    "AttachRequest",
    "ExecRequest",
    "ExecSpec",
    "ExecSyncResult",
    "Exit",
    "PortForwardRequest",
    "Signal",
    "StreamRequest",
    "TerminalSize",
    "signal_number",
]

_LINUX_NUMBERS: Final = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10,
    "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17, "CLD": 17, "CONT": 18, "STOP": 19,
    "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29,
    "POLL": 29, "PWR": 30, "SYS": 31, "RTMIN": 34, "RTMAX": 64,
}  # fmt: skip
_REAL_TIME: Final = re.compile(r"RT(MIN|MAX)(PLUS|MINUS|\+|-)(\d+)")


def signal_number(name: str) -> int | None:
    """The Linux number of a signal named `TERM`, `SIGTERM`, `15`, `SIGRTMIN+3` or `SIGRTMINPLUS3`; None if there is none."""
    if name.isascii() and name.isdigit():
        return int(name) if 0 < int(name) <= _LINUX_NUMBERS["RTMAX"] else None
    short = name.upper().removeprefix("SIG")
    if match := _REAL_TIME.fullmatch(short):
        end, sign, distance = match.groups()
        number = _LINUX_NUMBERS["RT" + end] + int(distance) * (1 if sign in {"PLUS", "+"} else -1)
        return number if _LINUX_NUMBERS["RTMIN"] <= number <= _LINUX_NUMBERS["RTMAX"] else None
    return _LINUX_NUMBERS.get(short)


class Signal(enum.IntEnum):
    """CRI's signals, with CRI's own numbers; `number` is Linux's."""

    RUNTIME_DEFAULT = 0
    SIGABRT = 1
    SIGALRM = 2
    SIGBUS = 3
    SIGCHLD = 4
    SIGCLD = 5
    SIGCONT = 6
    SIGFPE = 7
    SIGHUP = 8
    SIGILL = 9
    SIGINT = 10
    SIGIO = 11
    SIGIOT = 12
    SIGKILL = 13
    SIGPIPE = 14
    SIGPOLL = 15
    SIGPROF = 16
    SIGPWR = 17
    SIGQUIT = 18
    SIGSEGV = 19
    SIGSTKFLT = 20
    SIGSTOP = 21
    SIGSYS = 22
    SIGTERM = 23
    SIGTRAP = 24
    SIGTSTP = 25
    SIGTTIN = 26
    SIGTTOU = 27
    SIGURG = 28
    SIGUSR1 = 29
    SIGUSR2 = 30
    SIGVTALRM = 31
    SIGWINCH = 32
    SIGXCPU = 33
    SIGXFSZ = 34
    SIGRTMIN = 35
    SIGRTMINPLUS1 = 36
    SIGRTMINPLUS2 = 37
    SIGRTMINPLUS3 = 38
    SIGRTMINPLUS4 = 39
    SIGRTMINPLUS5 = 40
    SIGRTMINPLUS6 = 41
    SIGRTMINPLUS7 = 42
    SIGRTMINPLUS8 = 43
    SIGRTMINPLUS9 = 44
    SIGRTMINPLUS10 = 45
    SIGRTMINPLUS11 = 46
    SIGRTMINPLUS12 = 47
    SIGRTMINPLUS13 = 48
    SIGRTMINPLUS14 = 49
    SIGRTMINPLUS15 = 50
    SIGRTMAXMINUS14 = 51
    SIGRTMAXMINUS13 = 52
    SIGRTMAXMINUS12 = 53
    SIGRTMAXMINUS11 = 54
    SIGRTMAXMINUS10 = 55
    SIGRTMAXMINUS9 = 56
    SIGRTMAXMINUS8 = 57
    SIGRTMAXMINUS7 = 58
    SIGRTMAXMINUS6 = 59
    SIGRTMAXMINUS5 = 60
    SIGRTMAXMINUS4 = 61
    SIGRTMAXMINUS3 = 62
    SIGRTMAXMINUS2 = 63
    SIGRTMAXMINUS1 = 64
    SIGRTMAX = 65

    @property
    def number(self) -> int:
        """The signal's number on Linux; RUNTIME_DEFAULT is SIGTERM."""
        return signal_number(self.name) or _LINUX_NUMBERS["TERM"]

    @classmethod
    def from_number(cls, number: int) -> "Signal":
        """CRI's signal for a Linux signal number; RUNTIME_DEFAULT if CRI has none."""
        return next((signal for signal in cls if signal and signal.number == number), cls.RUNTIME_DEFAULT)


@attrs.frozen
class TerminalSize:
    """A terminal's size in characters; both at least 1."""

    width: int
    height: int


@attrs.frozen(kw_only=True)
class ExecSpec:
    """One more process in a running container. It inherits the container's environment, working directory, user and
    capabilities.
    """

    argv: tuple[str, ...]
    """The program, looked up on the container's PATH, and its arguments."""
    tty: bool = False
    """Whether it has a terminal: there is then no stderr, and TERM is `xterm`."""


@attrs.frozen(kw_only=True)
class Exit:
    """The exit status of a process."""

    code: int
    """The exit code, or 128 + the signal's number."""
    at: int | None = None
    """Nanoseconds since the epoch; None if the backend does not know it: the library then reads its own clock."""
    started_at: int | None = None
    """As `at`, for the start."""
    oom: bool = False
    """Whether the kernel's out-of-memory killer killed a process of the container. The container is OOMKilled if its first
    process also ended by SIGKILL; a backend that can identify the killed process sets `oom` for the first process only.
    """
    reason: str = ""
    """Copied to ContainerStatus, and usually empty: the library has CRI's words for ordinary exits."""
    message: str = ""
    """Copied to ContainerStatus, and usually empty."""

    @classmethod
    def from_returncode(cls, returncode: int) -> "Exit":
        """The exit status for a return code of `subprocess` or `asyncio`: a negative number is a signal."""
        return cls(code=returncode if returncode >= 0 else 128 - returncode)

    @classmethod
    def unknown(cls) -> "Exit":
        """The exit status of a process that has ended with an unknown one: code 255, reason Unknown, as in containerd."""
        return cls(code=255, reason="Unknown")


@attrs.frozen(kw_only=True)
class ExecSyncResult:
    """The result of ExecSync. Each stream is cut at 16 MiB; `exit_code` is as in `Exit.code`."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0


@attrs.frozen(kw_only=True)
class ExecRequest:
    """A process with streams. With `tty` there is no stderr; at least one stream is requested."""

    container_id: ContainerId
    cmd: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


@attrs.frozen(kw_only=True)
class AttachRequest:
    """A request for the container's own streams. `tty` must equal the container's own."""

    container_id: ContainerId
    tty: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


@attrs.frozen(kw_only=True)
class PortForwardRequest:
    """Ports of a pod. Only the WebSocket protocol uses them; SPDY names the port with each stream."""

    pod_sandbox_id: SandboxId
    port: tuple[int, ...] = ()


StreamRequest: TypeAlias = ExecRequest | AttachRequest | PortForwardRequest
"""What a URL of the streaming server stands for."""
