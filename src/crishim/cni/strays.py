"""Plugins that were left behind by a server of ours that was killed: the next one ends them.

A plugin that hangs would stay for good, and one that goes on would set up what is being torn down. They are known by a variable
of the environment that every plugin is started with, so there is no moment in which one runs and is not known.
"""

import os
from pathlib import Path
from typing import Final

from crishim.proc import kill_family, with_variable

_VARIABLE: Final = "CRISHIM_CNI_CACHE"


class Strays:
    """The plugins of whoever keeps its attachments in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def environment(self) -> dict[str, str]:
        """What a plugin's environment is made from: ours, with the mark."""
        return {**os.environ, _VARIABLE: self._folder}

    def end(self) -> None:
        """Kill them and all that they have started. For the start, when nobody of ours runs.

        A daemon that a plugin has rightly left goes on: it has the variable, too, but leads no session, as every plugin does.
        """
        kill_family([process.identity for process in with_variable(_VARIABLE, self._folder) if process.session == process.pid])
