"""What is known of the shims of a backend, in files: after a restart of ours this is all there is.

    <root>/<sandbox>/shim.json        the shim: its bundle, address, version, and process
    <root>/<sandbox>/t/<id>.json      a task of it: its bundle and streams; the sandbox's own task is called like the sandbox
    <root>/<sandbox>/t/<id>.exit      how it ended
    <root>/<sandbox>/t/<id>.gone      the shim holds it no more
    <root>/<sandbox>/io/<id>/         its named pipes

A dead shim leaves things behind that are freed only when its binary was asked for every task, so all of them stand here until
they were removed one by one, and the shim itself until nothing of it is left on the node.
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
"""The folder of a backend's own that is `<root>`."""


@attrs.frozen(kw_only=True)
class ShimRecord:
    """A shim. `pid` and `born` (clock ticks after the boot) are 0 until it was asked.

    `dead`: its process has ended or was killed, and what it has left on the node is not freed yet.
    """

    bundle: str
    address: str = ""
    version: int = 2
    pid: int = 0
    born: int = 0
    dead: bool = False


@attrs.frozen(kw_only=True)
class TaskRecord:
    """A task, as it was asked for."""

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
        """Make it. May be there already, of an attempt that was broken off."""
        self._tasks.mkdir(parents=True, exist_ok=True, mode=0o700)

    def shim(self) -> ShimRecord | None:
        """The shim; None if there is none any more."""
        told = _read(self.path / "shim.json")
        return None if told is None else ShimRecord(**told)

    def write_shim(self, record: ShimRecord) -> None:
        """Write the shim down."""
        write_atomically(self.path / "shim.json", json.dumps(attrs.asdict(record)))

    def forget_shim(self) -> None:
        """There is no shim any more."""
        (self.path / "shim.json").unlink(missing_ok=True)

    def tasks(self) -> list[TaskRecord]:
        """The tasks that were not removed."""
        read = (_read(path) for path in sorted(self._tasks.glob("*.json")))
        return [
            TaskRecord(id=told["id"], bundle=told["bundle"], stdio=Stdio(**told["stdio"])) for told in read if told is not None
        ]

    def write_task(self, record: TaskRecord) -> None:
        """Write a task down."""
        write_atomically(self._tasks / f"{record.id}.json", json.dumps(attrs.asdict(record)))

    def exit_of(self, task_id: str) -> Exit | None:
        """How a task ended, if that is known."""
        told = _read(self._tasks / f"{task_id}.exit")
        return None if told is None else Exit(**told)

    def write_exit(self, task_id: str, end: Exit) -> None:
        """Write down how a task ended."""
        write_atomically(self._tasks / f"{task_id}.exit", json.dumps(attrs.asdict(end)))

    def created(self, task_id: str) -> bool:
        """Whether the shim has answered that it made the task."""
        return (self._tasks / f"{task_id}.created").exists()

    def write_created(self, task_id: str) -> None:
        """The shim has made the task."""
        (self._tasks / f"{task_id}.created").touch()

    def gone(self, task_id: str) -> bool:
        """Whether the shim holds a task no more."""
        return (self._tasks / f"{task_id}.gone").exists()

    def write_gone(self, task_id: str) -> None:
        """The shim holds the task no more."""
        (self._tasks / f"{task_id}.gone").touch()

    def forget_task(self, task_id: str) -> None:
        """Forget a task."""
        for suffix in ("json", "created", "exit", "gone"):
            (self._tasks / f"{task_id}.{suffix}").unlink(missing_ok=True)
        shutil.rmtree(self.io(task_id), ignore_errors=True)

    def io(self, name: str) -> Path:
        """The folder for the named pipes of a task or exec."""
        return self.path / "io" / name

    def remove_if_empty(self) -> None:
        """Remove it, once there is neither a shim nor a task."""
        if not (self.path / "shim.json").exists() and not any(self._tasks.glob("*.json")):
            shutil.rmtree(self.path, ignore_errors=True)


def find_sandbox(root: Path, task_id: str) -> SandboxFolder | None:
    """The folder of the sandbox that a task belongs to."""
    for path in root.glob(f"*/t/{task_id}.json"):
        return SandboxFolder(path.parents[1])
    return None


def name_like(bundle: Path, task_id: str) -> None:
    """Link a bundle by its task's id: runc's shim, to delete a task, looks beside the folder that it is in for that name."""
    beside = bundle.with_name(task_id)
    if not beside.exists():
        beside.symlink_to(bundle.name)


def left_address(bundle: Path) -> str:
    """The address that a shim has written into its bundle, where we were ended before we had read it; empty for none."""
    try:
        return (bundle / "address").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return told
