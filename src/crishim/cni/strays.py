"""Plugins that were left behind by a server of ours that was killed: the next one ends them.

A plugin that hangs would stay for good, and one that goes on would set up what is being torn down. Each call has a note, and a
variable of its environment with the note's name: so there is no moment in which a plugin runs and is not known, and what one
has rightly left running is not taken for it.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crishim.linux.processes import kill_family, with_variable

_VARIABLE: Final = "CRISHIM_CNI_CALL"


class Strays:
    """Notes in `folder`, which must survive this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def noted(self) -> Iterator[dict[str, str]]:
        """The environment for a plugin that runs inside, made of ours. Where no note can be written it runs all the same."""
        note = self._folder / os.urandom(8).hex()
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            note.touch()
        try:
            yield {**os.environ, _VARIABLE: str(note)}
        finally:
            with contextlib.suppress(OSError):
                note.unlink()

    def end(self) -> None:
        """Kill who is noted, and all that they have started. For the start, when nobody of ours runs."""
        for note in self._folder.glob("*"):
            kill_family(with_variable(_VARIABLE, str(note)))
            note.unlink(missing_ok=True)
