"""The files that record the shims of a backend, from which a restarted process resumes.

    <root>/<sandbox>/shim.json        the shim: its bundle, address, version, and process
    <root>/<sandbox>/t/<id>.json      a task: its bundle and streams; the sandbox's own task has the sandbox's id
    <root>/<sandbox>/t/<id>.exit      its exit status
    <root>/<sandbox>/t/<id>.gone      the task is deleted from the shim
    <root>/<sandbox>/io/<id>/         its named pipes

A dead shim's resources are freed only when its binary has run `delete` for every task, so all tasks stay recorded until each
is removed, and the shim until nothing of it is left on the node.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.interfaces.oci_runtime import Stdio
from crishim.model.process import Exit
from crishim.pods.bundle import write_atomically

SHIMS: Final = "shims"
"""The folder in a backend's state that is `<root>`."""


@attrs.frozen(kw_only=True)
class ShimRecord:
    """A shim. `pid` and `born` (start time in clock ticks after the boot) are 0 while unknown.

    `sandbox`: it serves the Sandbox service, by which its sandbox was created. `dead`: its process has ended or was killed, and
    its leftovers on the node are not freed yet.
    """

    bundle: str
    address: str = ""
    version: int = 2
    pid: int = 0
    born: int = 0
    sandbox: bool = False
    dead: bool = False


@attrs.frozen(kw_only=True)
class TaskRecord:
    """A task as requested in Create."""

    id: str
    bundle: str
    stdio: Stdio = Stdio()


class SandboxFolder:
    """The folder of one sandbox's shim."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tasks = path / "t"

    @property
    def sandbox_id(self) -> str:
        """The sandbox's id."""
        return self.path.name

    def make(self) -> None:
        """Create the folder. It may exist, from an attempt that was interrupted."""
        self._tasks.mkdir(parents=True, exist_ok=True, mode=0o700)

    def shim(self) -> ShimRecord | None:
        """The record of the shim; None if there is none."""
        stored = _read(self.path / "shim.json")
        return None if stored is None else ShimRecord(**stored)

    def write_shim(self, record: ShimRecord) -> None:
        """Write the record of the shim."""
        write_atomically(self.path / "shim.json", json.dumps(attrs.asdict(record)))

    def forget_shim(self) -> None:
        """Delete the record of the shim."""
        (self.path / "shim.json").unlink(missing_ok=True)

    def tasks(self) -> list[TaskRecord]:
        """The records of the tasks that were not removed."""
        read = (_read(path) for path in sorted(self._tasks.glob("*.json")))
        return [
            TaskRecord(id=stored["id"], bundle=stored["bundle"], stdio=Stdio(**stored["stdio"]))
            for stored in read
            if stored is not None
        ]

    def write_task(self, record: TaskRecord) -> None:
        """Write the record of a task."""
        write_atomically(self._tasks / f"{record.id}.json", json.dumps(attrs.asdict(record)))

    def exit_of(self, task_id: str) -> Exit | None:
        """The exit status of a task, if it is recorded."""
        stored = _read(self._tasks / f"{task_id}.exit")
        return None if stored is None else Exit(**stored)

    def write_exit(self, task_id: str, end: Exit) -> None:
        """Record the exit status of a task."""
        write_atomically(self._tasks / f"{task_id}.exit", json.dumps(attrs.asdict(end)))

    def created(self, task_id: str) -> bool:
        """Whether the shim has created the task."""
        return (self._tasks / f"{task_id}.created").exists()

    def write_created(self, task_id: str) -> None:
        """Record that the shim has created the task."""
        (self._tasks / f"{task_id}.created").touch()

    def gone(self, task_id: str) -> bool:
        """Whether the task is deleted from the shim."""
        return (self._tasks / f"{task_id}.gone").exists()

    def write_gone(self, task_id: str) -> None:
        """Record that the task is deleted from the shim."""
        (self._tasks / f"{task_id}.gone").touch()

    def forget_task(self, task_id: str) -> None:
        """Delete the record of a task."""
        for suffix in ("json", "created", "exit", "gone"):
            (self._tasks / f"{task_id}.{suffix}").unlink(missing_ok=True)
        shutil.rmtree(self.io(task_id), ignore_errors=True)

    def io(self, name: str) -> Path:
        """The folder for the named pipes of a task or exec."""
        return self.path / "io" / name

    def remove_if_empty(self) -> None:
        """Remove the folder if it has neither a shim nor a task."""
        if not (self.path / "shim.json").exists() and not any(self._tasks.glob("*.json")):
            shutil.rmtree(self.path, ignore_errors=True)


def find_sandbox(root: Path, task_id: str) -> SandboxFolder | None:
    """The folder of the sandbox to which a task belongs."""
    for path in root.glob(f"*/t/{task_id}.json"):
        return SandboxFolder(path.parents[1])
    return None


def name_like(bundle: Path, task_id: str) -> None:
    """Link to a bundle under its task's id: runc's shim, to delete a task, looks for that name beside its working folder."""
    beside = bundle.with_name(task_id)
    if not beside.exists():
        beside.symlink_to(bundle.name)


def left_address(bundle: Path) -> str:
    """The address that a shim has written into its bundle, for a start that was interrupted before it was read; empty for
    none.
    """
    try:
        return (bundle / "address").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        stored: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return stored
