"""A process in a session of its own."""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted, Unimplemented
from crishim.linux.children import Child, children
from crishim.linux.processes import Identity, read
from crishim.linux.programs import find_program
from crishim.logs.stdio import ChildEnds

UMASK: Final = 0o022
"""runc's default."""

_SHORTAGES: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


@attrs.frozen(kw_only=True)
class Program:
    """The program to run. A missing working directory is replaced by `/`; a relative program is searched in the program's own
    PATH and folder.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    tty: bool = False


class Session:
    """A running process that leads a session. Its exit is awaited on the event loop, without a thread or a signal handler.

    Only `reap` reaps the process, so its pid is not reused until then.
    """

    def __init__(self, child: Child) -> None:
        self._child = child

    @property
    def identity(self) -> Identity:
        """The identity of the first process."""
        return self._child.identity

    @classmethod
    def spawn(cls, program: Program, ends: ChildEnds) -> "Session":
        """Start a program on these descriptors. Returns when the program runs, or cannot be run.

        Raises `InvalidArgument` for a program that cannot be run, and `ResourceExhausted` if the machine lacks resources. With
        `tty` util-linux's setsid makes the descriptors the session's terminal, since only a process itself can do that, and
        running Python between fork and exec is not safe in a process with threads.
        """
        cwd = working_folder(program.cwd)
        argv = list(program.argv)
        if program.tty:
            argv = [_setsid(), "-c", "--", *_checked(argv, program.env, cwd)]
        try:
            child = children.spawn(
                argv,
                stdin=ends.stdin,
                stdout=ends.stdout,
                stderr=ends.stderr,
                env=dict(program.env),
                cwd=cwd,
                umask=UMASK,
                start_new_session=not program.tty,
            )
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise ResourceExhausted(f"{program.argv[0]!r} cannot be started: {error.strerror}") from error
            raise cannot_run(program.argv[0], error.strerror or str(error)) from error
        except ValueError as error:
            raise cannot_run(program.argv[0], str(error)) from error
        return cls(child)

    @classmethod
    def adopt(cls, identity: Identity) -> "Session | None":
        """The session of a process that is not a child of ours; None if it has exited."""
        try:
            child = children.adopt(identity.pid)
        except NotFound:
            return None
        process = read(identity.pid)
        if child.identity != identity or process is None or process.ended:
            child.disown()
            return None
        return cls(child)

    def send(self, number: int) -> None:
        """Send a signal to the first process. Raises `InvalidArgument` for an invalid signal."""
        try:
            self._child.send(number)
        except PermissionError as error:
            raise PermissionDenied(f"signal {number} cannot be sent to process {self.identity.pid}") from error
        except OSError as error:
            raise InvalidArgument("signal", f"{number} cannot be sent: {error.strerror}") from error

    async def ended(self) -> None:
        """Return when the first process has exited. May be cancelled."""
        await self._child.ended()

    def returncode(self) -> int | None:
        """The exit status as in `subprocess`; None if it is not our child. Does not reap."""
        return self._child.returncode()

    def reap(self) -> None:
        """Reap the exited process, once."""
        self._child.collect()


def working_folder(cwd: str) -> str:
    """The working directory of a program: `cwd`, or `/` if this machine does not have it."""
    path = str(Path("/") / cwd)
    return path if os.path.isdir(path) else "/"  # noqa: PTH112 - what may not be looked at is no error


def _setsid() -> str:
    if not (setsid := find_program("setsid")):
        raise Unimplemented("tty", "a terminal needs setsid, which is in Debian's package util-linux")
    return setsid


def _checked(argv: list[str], env: Mapping[str, str], cwd: str) -> list[str]:
    """`argv`, if the program exists: behind setsid a missing one would be an exit and no error."""
    if "\0" in "".join(argv) or not find_program(argv[0], env=env, cwd=cwd):
        raise cannot_run(argv[0], "no such program")
    return argv


def cannot_run(program: str, why: str) -> InvalidArgument:
    """The error for a program that cannot be run."""
    return InvalidArgument("config.command", f"{program!r} cannot be run: {why}")
