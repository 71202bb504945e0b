"""Plugins that were left behind by a server of ours that was killed: who runs is noted, and ended by the next one.

A plugin that hangs would stay for good, and one that goes on would set up what is being torn down.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from crishim.proc import Identity, boot_id, kill_family, read


class Strays:
    """Notes in `folder`, which must survive this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def noted(self, pid: int) -> Iterator[None]:
        """A plugin runs inside, the first process of its session. Where nothing can be written it runs all the same."""
        process, note = read(pid), self._folder / str(pid)
        if process is not None:
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                note.write_text(f"{process.identity.start} {boot_id()}", encoding="ascii")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                note.unlink()

    def end(self) -> None:
        """Kill who is noted and all that it has started. For the start, when nobody of ours runs."""
        for note in self._folder.glob("*"):
            with contextlib.suppress(OSError, ValueError):
                start, boot = note.read_text(encoding="ascii").split(" ", 1)
                if boot == boot_id():
                    kill_family((Identity(int(note.name), int(start)),))
            note.unlink(missing_ok=True)
