"""What outlives this process of its tasks: what containerd configured the runtime of each with, and where its bundle lies.

The first is kept in the bundle: the binary's `delete` is asked without it, and maybe of another daemon than the one that made
the task. It is asked after a clean end, too: then nothing is kept any more, and nothing need be freed. The second is a link in
a folder of our own: the next daemon frees what this one leaves, whether or not containerd asks.
"""

import base64
import contextlib
import json
from pathlib import Path
from typing import Final

from crishim.pods.bundle import write_atomically

Key = tuple[str, str]
"""Containerd's namespace, and the task's id."""

NAME: Final = "crishim-task.json"
NONE: Final = ("", b"")


class KeptTasks:
    """The tasks of a daemon, below `folder`: NAMESPACE/ID leads to a task's bundle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, key: Key, bundle: Path, options: tuple[str, bytes]) -> None:
        """Write a task's options, by type and value, before anything of it is made."""
        kind, value = options
        link = self._folder.joinpath(*key)
        link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        link.unlink(missing_ok=True)
        link.symlink_to(bundle)
        write_atomically(bundle / NAME, json.dumps({"type": kind, "value": base64.b64encode(value).decode()}))

    def options(self, bundle: Path) -> tuple[str, bytes] | None:
        """What was written; `NONE` where that is nothing that can be read, None where the bundle says that there is nothing."""
        if bundle.exists() and not (bundle / NAME).exists():
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads((bundle / NAME).read_text(encoding="utf-8"))
            return str(told["type"]), base64.b64decode(told["value"], validate=True)
        return NONE

    def forget(self, key: Key, bundle: Path) -> None:
        """All is freed."""
        (bundle / NAME).unlink(missing_ok=True)
        self._folder.joinpath(*key).unlink(missing_ok=True)

    def left(self) -> dict[Key, Path]:
        """The bundles of those that are not forgotten."""
        return {(link.parent.name, link.name): link.readlink() for link in self._folder.glob("*/*") if link.is_symlink()}
