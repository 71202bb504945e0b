"""Namespaces of processes, pinned by bind mounts on files. A pid identifies a namespace only together with the process's start
time.

A pinned file never refers to another namespace: it stays the same when the namespace's last process exits, and after an
unmount it is an empty file, which nothing can join. A PID namespace whose first process has exited can be entered but not
forked into (ENOMEM, pid_namespaces(7)), so a runtime fails to join it.
"""

from pathlib import Path

from crishim.errors import CrishimError
from crishim.linux import processes
from crishim.linux.mounts import MS_BIND, mount, unmount


def pin(process: processes.Identity, kind: str, file: Path) -> bool:
    """Bind a process's namespace, by its name in /proc/pid/ns, to a new file.

    False, and no file, if the process has exited, or shares this namespace with us.
    """
    file.touch()
    try:
        mount(f"/proc/{process.pid}/ns/{kind}", file, flags=MS_BIND)
        # checked after the mount: a pid is not used again while its process runs
        if processes.runs(process) and not file.samefile(f"/proc/self/ns/{kind}"):
            return True
    except CrishimError:
        if processes.runs(process):
            unpin(file)
            raise
    unpin(file)
    return False


def unpin(file: Path) -> None:
    """Unpin a namespace, if the file exists."""
    unmount(file)
    file.unlink(missing_ok=True)
