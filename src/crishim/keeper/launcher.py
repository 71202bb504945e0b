"""Starts a keeper as a daemon. A program of its own, on the standard library alone.

    python -IS -c "..." FOLDER PROGRAM

PROGRAM is the keeper's Python code. It ends with 0 once the keeper's socket takes connections, and with `TAKEN` if the folder
has a keeper already.
"""

import ctypes
import fcntl
import os
import resource
import socket
import sys

from crishim.keeper import wire

TAKEN = 3

_PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> int:
    """Take the folder's lock and address, and leave them to a daemon in a session of its own."""
    folder, program = arguments
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return TAKEN
    listener = socket.socket(socket.AF_UNIX)
    wire.bind(listener, folder)
    listener.listen(128)
    if not os.fork():
        _execute(folder, program, (listener.fileno(), lock))
    return 0


def _execute(folder: str, program: str, fds: tuple[int, int]) -> None:
    """Become the keeper: a child subreaper stays one, and the two descriptors stay open."""
    os.setsid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "becoming a child subreaper")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    os.chdir("/")
    for fd in fds:
        os.set_inheritable(fd, True)
    os.execv(  # noqa: S606 - no shell is wanted
        sys.executable, [sys.executable, "-IS", "-c", program, folder, f"--fds={fds[0]},{fds[1]}"]
    )
