"""Locating, reading and removing cgroups, by files of /sys/fs/cgroup and /proc; no process is started for it but to create a
scope.

A container's path is the one in its bundle. /proc/<pid>/cgroup is read only for a pid that is certainly still that process.
"""

import asyncio
import contextlib
import os
import posixpath
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from crishim.errors import FailedPrecondition, Unknown
from crishim.linux.children import children

__all__ = ["Cgroups", "folder_of"]

ROOT: Final = Path("/sys/fs/cgroup")

_PIECE: Final = 1 << 14
_TRIES: Final = 50
_PAUSE: Final = 0.02


def folder_of(cgroups_path: str) -> str:
    """The folder of linux.cgroupsPath below the root: a path unchanged, systemd's `slice:prefix:name` as the scope in its
    slices.
    """
    parent, colon, rest = cgroups_path.partition(":")
    if not colon:
        return posixpath.normpath(f"/{cgroups_path.lstrip('/')}")
    prefix, _, name = rest.partition(":")
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return posixpath.join(slice_folder(parent or "system.slice"), unit)


def slice_folder(unit: str) -> str:
    """A systemd slice's folder: `a-b.slice` is in `a.slice`, and `-.slice` is the root."""
    unit = posixpath.basename(unit)
    names = unit.removesuffix(".slice").split("-")
    if unit == "-.slice":
        return "/"
    return "/" + "/".join(f"{'-'.join(names[:count])}.slice" for count in range(1, len(names) + 1))


async def start_scope(unit: str, parent: str, pid: int) -> None:
    """Have systemd move a process into a new scope of the slice `parent`; systemd moves back processes that others place
    there.

    Raises `FailedPrecondition` if there is no busctl, and `Unknown` with its output.
    """
    properties = ("2", "PIDs", "au", "1", str(pid), "Slice", "s", parent)
    await _ask_systemd("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", *properties, "0")


async def stop_unit(unit: str) -> None:
    """Have systemd end a scope or slice. An empty slice, or a scope whose process had ended before it was moved, is never
    removed by itself.

    Raises as `start_scope`.
    """
    await _ask_systemd("StopUnit", "ss", unit, "replace")


async def _ask_systemd(method: str, *arguments: str) -> None:
    call = ("busctl", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    quiet, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    try:
        process = await children.start(*call, method, *arguments, stdin=quiet, stdout=quiet, stderr=pipe)
    except FileNotFoundError as error:
        raise FailedPrecondition("missing", "installed", "busctl (systemd)") from error
    _, complaint = await process.communicate()
    if process.returncode:
        raise Unknown(f"{method} {arguments[1]}: {complaint.decode('utf-8', 'replace').strip()}")


def own_folder(text: str, controller: str, *, v2: bool) -> str:
    """The cgroup in a process's /proc/<pid>/cgroup, of v2 or of a controller's v1 hierarchy; empty if it is in none."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, folder = rest.partition(":")
        if number == "0" if v2 else controller in controllers.split(","):
            return folder
    return ""


class Cgroups:
    """The machine's cgroups, of either version."""

    def __init__(self, *, v2: bool, root: Path = ROOT) -> None:
        self._v2 = v2
        self._root = root

    def exists(self, folder: str) -> bool:
        """Whether the cgroup exists."""
        return (self._controller("memory") / folder.lstrip("/")).is_dir()

    def of(self, pid: int | str) -> str:
        """The memory cgroup of a process that certainly still runs, for example one that was just created."""
        return own_folder(read_text(f"/proc/{pid}/cgroup"), "memory", v2=self._v2)

    @property
    def v2(self) -> bool:
        """Whether there is one hierarchy for all controllers."""
        return self._v2

    def unused(self, folder: str) -> bool:
        """Whether a cgroup has neither processes nor cgroups below it."""
        group = self._controller("memory") / folder.lstrip("/")
        return not read_text(group / "cgroup.procs") and not any(group.glob("*/"))

    def reader(self, folder: str) -> Callable[[str], str]:
        """A function that reads a file of the cgroup, empty if there is none: `file` on v2, `controller/file` on v1.

        `cgroup.procs` includes the processes of descendant cgroups, as the counters do.
        """
        root = str(self._root)

        def read(name: str) -> str:
            controller, _, file = ("", "", name) if self._v2 else name.partition("/")
            path = f"{root}/{controller}{folder}" if controller else f"{root}{folder}"
            return _members(path) if file == "cgroup.procs" else read_text(f"{path}/{file}")

        return read

    def write(self, folder: str, files: Mapping[str, str]) -> None:
        """Write to files of a cgroup, on v1 in the hierarchies of the controllers that their names begin with.

        What the kernel refuses is written again after the others: a memory limit must be below that of memory and swap, also
        while both are changed. Raises the first `OSError` of the second attempts, after all of them.
        """
        refused = self._refused(folder, files)
        errors = self._refused(folder, {file: files[file] for file in refused})
        for error in errors.values():
            raise error

    def _refused(self, folder: str, files: Mapping[str, str]) -> dict[str, OSError]:
        """Write to files of a cgroup: the errors of those that could not be written."""
        errors = {}
        for file, text in files.items():
            try:
                self._file(folder, file).write_text(text, encoding="ascii")
            except OSError as error:
                errors[file] = error
        return errors

    def _file(self, folder: str, file: str) -> Path:
        return self._controller(file.partition(".")[0]) / folder.lstrip("/") / file

    def pids(self, folder: str) -> list[int]:
        """The processes of a cgroup and its descendants: crun puts a container into a cgroup of its own below the scope."""
        return [int(pid) for pid in _members(str(self._controller("memory") / folder.lstrip("/"))).split()]

    def killed_for_memory(self, folder: str) -> bool:
        """Whether the out-of-memory killer has killed a process of a cgroup; false if the cgroup is unknown."""
        if not folder:
            return False
        file = "memory.events" if self._v2 else "memory.oom_control"
        lines = read_text(self._controller("memory") / folder.lstrip("/") / file).splitlines()
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines)

    def beside(self, cgroups_path: str) -> tuple[Path, ...]:
        """Folders for the monitor of a container, beside its cgroup, in each hierarchy that accounts for the pod.

        Empty if the container has no pod's cgroup, if that does not exist, or if systemd owns it.
        """
        parent, name = posixpath.split(cgroups_path)
        if ":" in cgroups_path or parent in {"", "/"} or not self.exists(parent):
            return ()
        folders = {self._controller(kind) for kind in ("memory", "cpu", "pids")}
        return tuple(folder / parent.lstrip("/") / f"monitor-{name}" for folder in sorted(folders))

    def move_to_own(self) -> None:
        """Move this process to the cgroup that it is in. Blocks until the kernel lets processes move."""
        if folder := own_folder(read_text("/proc/self/cgroup"), "pids", v2=self._v2):
            with contextlib.suppress(OSError):
                (self._controller("pids") / folder.lstrip("/") / "cgroup.procs").write_text("0", encoding="ascii")

    def kill(self, folder: str) -> None:
        """Kill every process of a cgroup and its descendants, and return when none is left. Blocks for at most a second."""
        group = self._controller("memory") / folder.strip("/")
        if group in {self._root, self._controller("memory")}:
            return  # the root: every process of the machine
        for _ in range(_TRIES):
            try:
                (group / "cgroup.kill").write_text("1", encoding="ascii")
            except OSError:  # no cgroup.kill: v1, or a kernel before 5.14
                with contextlib.suppress(FileNotFoundError):  # its runtime removes it meanwhile
                    for member in (group, *(path for path in group.rglob("*") if path.is_dir())):
                        _kill_members(member)
            if not _populated(group):
                return
            time.sleep(_PAUSE)

    def remove(self, folder: str) -> None:
        """Kill the processes of a cgroup, and remove it from every hierarchy. Blocks for at most a second for each."""
        name = folder.lstrip("/")
        roots = [self._root] if self._v2 else [path for path in self._root.iterdir() if path.is_dir() and not path.is_symlink()]
        for group in (root / name for root in roots if name):
            for _ in range(_TRIES):
                if not group.is_dir():
                    break
                _kill_members(group)
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(_PAUSE)

    def _controller(self, name: str) -> Path:
        return self._root if self._v2 else self._root / name


def _members(path: str) -> str:
    """The content of cgroup.procs of a cgroup and its descendants."""
    texts = [read_text(f"{path}/cgroup.procs")]
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        texts += [_members(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return "".join(texts)


def _populated(group: Path) -> bool:
    """Whether a process is in a cgroup or its descendants."""
    return bool(_members(str(group)))


def _kill_members(group: Path) -> None:
    """Kill a cgroup's processes, but not a new process with the pid of one that has just exited."""
    with contextlib.ExitStack() as stack:
        handles = {}
        for pid in read_text(group / "cgroup.procs").split():
            with contextlib.suppress(OSError):  # a pid of 0 is a process of another PID namespace
                handles[pid] = os.pidfd_open(int(pid))
                stack.callback(os.close, handles[pid])
        for pid in read_text(group / "cgroup.procs").split():
            if pid in handles:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(handles[pid], signal.SIGKILL)


def read_text(path: str | Path) -> str:
    """The content of a small file; "" if it cannot be read, as files of a cgroup that is being removed.

    Uses bare system calls: thousands of files are read for one list.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        pieces = list(iter(lambda: os.read(fd, _PIECE), b""))
    except OSError:
        return ""
    finally:
        os.close(fd)
    return b"".join(pieces).decode("utf-8", "replace")
