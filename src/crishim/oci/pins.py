"""Namespaces of processes, bound to files. A pid names a namespace only together with the process's start time.

A file that holds a namespace never leads to another one: when the namespace's last process has ended it is still that one, and
when it is unmounted it is an empty file, which nobody can join. A PID namespace whose first process has ended can be entered
but not forked into (ENOMEM, pid_namespaces(7)), so a runtime fails to join it.
"""

from pathlib import Path
from typing import Final

from crishim import proc
from crishim.errors import CrishimError
from crishim.mounting import MS_BIND, mount, unmount
from crishim.oci.bundle import write_atomically

_PROCESS: Final = "process"
"""The file of a bundle for the first process of its container, as `proc.Identity`."""


def record_process(bundle: Path, pid: int) -> proc.Identity | None:
    """Write down which process a runtime has just created for a bundle; None if it is gone already."""
    process = proc.read(pid)
    if process is None:
        return None
    write_atomically(bundle / _PROCESS, str(process.identity))
    return process.identity


def recorded_process(bundle: Path) -> proc.Identity | None:
    """The process that was written down for a bundle."""
    try:
        return proc.Identity.parse((bundle / _PROCESS).read_text(encoding="ascii"))
    except OSError:
        return None


def pin(process: proc.Identity, kind: str, file: Path) -> bool:
    """Bind a process's namespace, as /proc/pid/ns calls it, to a new file.

    False, and no file, where the process has ended, or shares this namespace with us.
    """
    file.touch()
    try:
        mount(f"/proc/{process.pid}/ns/{kind}", file, flags=MS_BIND)
        if proc.runs(process) and not file.samefile(f"/proc/self/ns/{kind}"):  # a pid is not used again while its process runs
            return True
    except CrishimError:
        if proc.runs(process):
            unpin(file)
            raise
    unpin(file)
    return False


def unpin(file: Path) -> None:
    """Let go of a namespace, if the file is there."""
    unmount(file)
    file.unlink(missing_ok=True)
