"""Namespaces of processes, bound to files. A pid names a namespace only together with the process's start time.

A file that holds a namespace never leads to another one: when the namespace's last process has ended it is still that one, and
when it is unmounted it is an empty file, which nobody can join. A PID namespace whose first process has ended can be entered
but not forked into (ENOMEM, pid_namespaces(7)), so a runtime fails to join it.
"""

from pathlib import Path

from crishim.errors import CrishimError
from crishim.linux import processes
from crishim.linux.mounts import MS_BIND, mount, unmount


def pin(process: processes.Identity, kind: str, file: Path) -> bool:
    """Bind a process's namespace, as /proc/pid/ns calls it, to a new file.

    False, and no file, where the process has ended, or shares this namespace with us.
    """
    file.touch()
    try:
        mount(f"/proc/{process.pid}/ns/{kind}", file, flags=MS_BIND)
        # asked after the mount: a pid is not used again while its process runs
        if processes.runs(process) and not file.samefile(f"/proc/self/ns/{kind}"):
            return True
    except CrishimError:
        if processes.runs(process):
            unpin(file)
            raise
    unpin(file)
    return False


def unpin(file: Path) -> None:
    """Let go of a namespace, if the file is there."""
    unmount(file)
    file.unlink(missing_ok=True)
