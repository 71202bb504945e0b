"""The files in `runtime_state` from which a later crishim resumes running containers: one JSON file per id.

Files are replaced atomically. Those of another boot, of which nothing runs any more, are deleted when they are read.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from crishim.errors import ResourceExhausted
from crishim.linux.processes import Identity, boot_id
from crishim.model.process import Exit
from crishim.model.values import ContainerId, SandboxId

Kept = TypeVar("Kept", "StoredContainer", "StoredSandbox")

_log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class StoredRequest:
    """What a container of the keeper runs, and its streams."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    tty: bool
    log_path: str
    stdin: bool
    stdin_once: bool


@attrs.frozen(kw_only=True)
class StoredContainer:
    """A container that was started: the processes that lead its sessions, the first one its own, and its exit status.

    `request` is there for a container that the keeper runs; such a one is stored from its creation, then without leaders and
    with `started_at` 0.
    """

    id: ContainerId
    sandbox_id: SandboxId
    started_at: int
    leaders: tuple[Identity, ...]
    exit: Exit | None = None
    request: StoredRequest | None = None


@attrs.frozen(kw_only=True)
class StoredSandbox:
    """A sandbox, and whether it is ready."""

    id: SandboxId
    ready: bool


class StateFolder:
    """The files. Writing raises `ResourceExhausted`, naming the file; a file that cannot be read is logged and skipped."""

    def __init__(self, folder: Path) -> None:
        self._containers = folder / "containers"
        self._sandboxes = folder / "sandboxes"
        self._boot_id = boot_id()

    def containers(self) -> list[StoredContainer]:
        """All containers of this boot."""
        return list(self._read(self._containers, _container))

    def sandboxes(self) -> list[StoredSandbox]:
        """All sandboxes of this boot."""
        return list(self._read(self._sandboxes, lambda data: StoredSandbox(**data)))

    def put(self, stored: StoredContainer | StoredSandbox) -> None:
        """Write or replace one file."""
        folder = self._containers if isinstance(stored, StoredContainer) else self._sandboxes
        write_json(folder / f"{stored.id}.json", {"boot_id": self._boot_id, **attrs.asdict(stored)})

    def forget_container(self, container_id: ContainerId) -> None:
        """Delete a container's file, if there is one."""
        (self._containers / f"{container_id}.json").unlink(missing_ok=True)

    def forget_sandbox(self, sandbox_id: SandboxId) -> None:
        """Delete a sandbox's file, if there is one."""
        (self._sandboxes / f"{sandbox_id}.json").unlink(missing_ok=True)

    def _read(self, folder: Path, make: Callable[[dict[str, Any]], Kept]) -> Iterator[Kept]:
        for file in sorted(folder.glob("*.json")):
            try:
                data = json.loads(file.read_bytes())
                if data.pop("boot_id") == self._boot_id:
                    yield make(data)
                else:
                    file.unlink()
            except (ValueError, TypeError, KeyError, AttributeError):
                _log.exception("%s is not one of our files", file)


def _container(data: dict[str, Any]) -> StoredContainer:
    leaders = tuple(Identity(**leader) for leader in data.pop("leaders"))
    end, request = data.pop("exit"), data.pop("request", None)
    return StoredContainer(
        **data,
        leaders=leaders,
        exit=None if end is None else Exit(**end),
        request=None if request is None else StoredRequest(**request),
    )


def write_json(path: Path, data: object) -> None:
    """Replace a file by JSON data, atomically; missing folders are created. Raises `ResourceExhausted`, naming it."""
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(data), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise ResourceExhausted(f"{path}: {error.strerror}") from error
