"""A shim's own process: told apart from whoever has its pid later, and ended when it does not leave by itself."""

import contextlib
import os
import select
import signal
import stat
from pathlib import Path

from crishim.linux import processes


def born(pid: int) -> int:
    """When a process began, in clock ticks after the boot: a pid that is used again has another. 0 if it is gone."""
    process = processes.read(pid)
    return 0 if process is None else process.identity.start


def end_process(pid: int, since: int) -> bool:
    """Kill a process that began at `since`, and wait a moment for its end; whether there was one. Blocks for up to 5 s."""
    if pid <= 1 or not since:
        return False
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if born(pid) != since:
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], 5.0)
            return True
        finally:
            os.close(handle)
    return False


def end_shim(pid: int, since: int, bundle: Path) -> bool:
    """End a shim; whether there was one. One that has not told its pid is whoever works in its sandbox's bundle. Blocks."""
    if pid:
        return end_process(pid, since)
    ended = [end_process(found.pid, found.start) for found in working_in(bundle)]
    return any(ended)


def working_in(folder: Path) -> list[processes.Identity]:
    """The processes whose working folder this is, as a shim's is its first bundle; never this process."""
    wanted = os.path.realpath(folder)
    found = []
    for (
        pid,
        process,
    ) in processes.everybody().items():  # who has a pid is read before the folder: a later owner of it is not killed
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd") == wanted and pid != os.getpid():  # noqa: PTH115 - one look for each process
                found.append(process.identity)
    return found


def remove_socket(address: str) -> None:
    """Remove what is left of a dead shim's socket, if it has one in the file system."""
    path = Path(address.removeprefix("unix://"))
    with contextlib.suppress(OSError):
        if path.is_absolute() and stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
