"""Plugins that were left behind by a server of ours that was killed: the next one ends them.

A plugin that hangs would stay for good, and one that goes on would set up what is being torn down. Each call has a note, and a
variable of its environment with the note's name: so there is no moment in which a plugin runs and is not known, and what one
has rightly left running is not taken for it.

Running one plugin: the execution protocol of the CNI specification, section 2.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.cni.attachment import INTERFACE
from crishim.cni.results import failure, result_of
from crishim.errors import FailedPrecondition, Unknown
from crishim.linux.children import children
from crishim.linux.processes import kill_family_now, with_variable

_VARIABLE: Final = "CRISHIM_CNI_CALL"


class LeftoverPlugins:
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
            kill_family_now(with_variable(_VARIABLE, str(note)))
            note.unlink(missing_ok=True)


@attrs.frozen(kw_only=True)
class PluginCall:
    """One call of a plugin: the command and the parameters of its environment. GC and STATUS have no container."""

    command: str
    container_id: str = ""
    netns: str = ""
    args: tuple[tuple[str, str], ...] = ()

    def variables(self, folders: Iterable[Path]) -> dict[str, str]:
        """The protocol's variables of the plugin's environment."""
        made = {"CNI_COMMAND": self.command, "CNI_PATH": ":".join(map(str, folders))}
        if self.container_id:
            made |= {"CNI_CONTAINERID": self.container_id, "CNI_NETNS": self.netns, "CNI_IFNAME": INTERFACE}
            made["CNI_ARGS"] = ";".join(f"{key}={value}" for key, value in self.args)
        return made


class Plugins:
    """The plugins' programs, in the first of `folders` that has each. `leftovers` knows whom a killed server leaves."""

    def __init__(self, folders: Iterable[Path], leftovers: LeftoverPlugins) -> None:
        self.folders = tuple(folders)
        self._strays = leftovers

    def find(self, kind: str) -> Path | None:
        """The program of a plugin."""
        for folder in self.folders:
            if os.access(program := folder / kind, os.X_OK) and program.is_file():
                return program
        return None

    async def add(self, kind: str, call: PluginCall, config: bytes) -> Mapping[str, Any]:
        """Run ADD and answer its result. Raises as `run`."""
        return result_of(kind, await self.run(kind, call, config))

    async def run(self, kind: str, call: PluginCall, config: bytes) -> bytes:
        """Run a plugin and answer what it printed.

        Cancelled, the plugin and all it has started are killed first. Raises `FailedPrecondition` where there is no such
        plugin, `Unavailable` for what may pass, and `PluginFailed`.
        """
        program = self.find(kind)
        if program is None:
            folders = ", ".join(map(str, self.folders))
            raise FailedPrecondition("missing", f"in {folders}", f"the CNI plugin {kind}")
        with self._strays.noted() as environment:
            process = await self._start(program, call, environment)
            try:
                out, err = await process.communicate(config)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                raise
        if process.returncode:
            raise failure(kind, call.command, process.returncode, out, err)
        return out

    async def _start(self, program: Path, call: PluginCall, environment: dict[str, str]) -> asyncio.subprocess.Process:
        try:
            return await children.start(
                program,
                env=environment | call.variables(self.folders),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise Unknown(f"the CNI plugin {program} cannot be run: {error.strerror}") from error
