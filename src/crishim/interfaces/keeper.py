"""The seat of the keeper: a process beside the server that has containers' streams, logs and exits while the server is away.

It is a monitor, as conmon is one, shared by all containers of a node. A backend whose engine has no such process runs its
containers' programs with it: `BackendContext.keeper`.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from crishim.interfaces.capabilities import ProcessIO
from crishim.model.process import Exit, TerminalSize
from crishim.model.values import EMPTY


@attrs.frozen(kw_only=True)
class KeepRequest:
    """A command line to run and to monitor. `name` is the container's, unique among all of the keeper's.

    The program is found on the PATH of `env`.

    Without `pid_file` the program is the container's process itself. With it, the program creates the process, writes its pid
    there and ends with 0, as `runc create` does: the process then becomes the keeper's child. A creator of a terminal sends it
    to the UNIX socket `console`, whose path has 107 bytes at most. With `stdin_once` the first client that is attached and ends
    its input ends the container's. In `folder` the keeper writes the file `exit` (the exit code, decimal; its time is that of
    the exit), and an empty file `oom` before it if the out-of-memory killer was there.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = EMPTY
    cwd: str = "/"
    log_path: str = ""
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False
    folder: Path | None = None
    pid_file: Path | None = None
    console: Path | None = None


class Keeper(Protocol):
    """The node's keeper. It is started by the first `keep` or `adopt`.

    It goes on when the server ends, is upgraded or is killed; `containers` then tells what it has. Where the keeper itself is
    killed, its containers' logs end and their exits are unknown, but for those in files. Every verb raises `Unavailable` if
    there is no keeper, and `NotFound` for a name that it does not have.
    """

    @abstractmethod
    async def keep(self, request: KeepRequest) -> int:
        """Run a command line; return the pid of the container's process, which may have exited already.

        Raises `AlreadyExists`, what `from_os_error` makes of a log or a program that cannot be opened or run, and
        `CreateRefused` with the stderr of a creator that has failed. Cancelled, it kills the creator, or the
        program where there is none, and the name is free.
        """

    @abstractmethod
    async def adopt(
        self,
        name: str,
        streams: Mapping[str, int],
        *,
        writers: Sequence[int] = (),
        log_path: str = "",
        stdin_once: bool = False,
    ) -> None:
        """Take over our ends of pipes that others have created, as the named pipes of a shim: descriptors by `stdin`,
        `stdout`, `stderr`. `writers` are writing ends that are open until `release`, so that the output has no end before its
        writer has come. The caller's own descriptors stay open. `drain` follows when the process has exited.
        """

    @abstractmethod
    async def release(self, name: str) -> None:
        """Close the writing ends that `adopt` was given."""

    @abstractmethod
    async def wait(self, name: str) -> Exit:
        """Return when the process has exited and all its output is in the log. Sticky, until `forget`."""

    @abstractmethod
    async def drain(self, name: str, end: Exit) -> Exit:
        """The process behind adopted streams has exited: return when its output is in the log."""

    @abstractmethod
    async def kill(self, name: str, signal: int) -> None:
        """Send a signal to the process, and to its process group if the keeper has started it. `NotFound` also if it has
        exited.
        """

    @abstractmethod
    async def attach(self, name: str, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""

    @abstractmethod
    async def takes_input(self, name: str) -> bool:
        """Whether the container's stdin is open; after the end of its input, until all of that is written."""

    @abstractmethod
    async def resize(self, name: str, size: TerminalSize) -> None:
        """Resize the terminal, if there is one."""

    @abstractmethod
    async def reopen_log(self, name: str) -> None:
        """As `SupportsLogReopen.reopen_log`. Raises `Unavailable` after the exit."""

    @abstractmethod
    async def containers(self) -> Mapping[str, int]:
        """The pids of all containers by name; 0 for adopted streams. Empty if there is no keeper."""

    @abstractmethod
    async def exits(self) -> Mapping[str, Exit | None]:
        """All containers by name, with the exits of those whose `wait` would return at once. Empty if there is no keeper."""

    @abstractmethod
    async def forget(self, name: str) -> None:
        """Close the streams and forget the container; `wait` then raises `NotFound`. A process that still runs goes on."""
