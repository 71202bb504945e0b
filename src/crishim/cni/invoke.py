"""Runs CNI plugins (CNI specification, section 2), and kills those that a killed server has left running.

A plugin that hangs would stay for ever, and one that continues would set up what is being torn down. So each call writes a
note, and sets an environment variable to the note's name before the plugin starts: every running plugin is known, and
processes that an earlier plugin has rightly left running are not mistaken for it.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.cni.attachment import INTERFACE
from crishim.cni.results import failure, result_of
from crishim.errors import FailedPrecondition, Unknown
from crishim.interfaces.tracing import span
from crishim.linux.children import children, end_program
from crishim.linux.processes import kill_family_now, with_variable

_VARIABLE: Final = "CRISHIM_CNI_CALL"


class LeftoverPlugins:
    """Notes in `folder`, which must survive this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def noted(self) -> Iterator[dict[str, str]]:
        """The environment for a plugin that runs inside the `with`, derived from ours. The plugin also runs if no note can be
        written.
        """
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
        """Kill the noted plugins, and all their descendants. Called at start, when no call is under way."""
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
        """The protocol's environment variables."""
        variables = {"CNI_COMMAND": self.command, "CNI_PATH": ":".join(map(str, folders))}
        if self.container_id:
            variables |= {"CNI_CONTAINERID": self.container_id, "CNI_NETNS": self.netns, "CNI_IFNAME": INTERFACE}
            variables["CNI_ARGS"] = ";".join(f"{key}={value}" for key, value in self.args)
        return variables


class Plugins:
    """The plugins' programs, each in the first of `folders` that has it. `leftovers` records the running ones."""

    def __init__(self, folders: Iterable[Path], leftovers: LeftoverPlugins) -> None:
        self.folders = tuple(folders)
        self._leftovers = leftovers

    def find(self, kind: str) -> Path | None:
        """The path of a plugin's program, or None."""
        for folder in self.folders:
            if os.access(program := folder / kind, os.X_OK) and program.is_file():
                return program
        return None

    async def add(self, kind: str, call: PluginCall, config: bytes) -> Mapping[str, Any]:
        """Run ADD and return its result. Raises as `run`."""
        return result_of(kind, await self.run(kind, call, config))

    async def run(self, kind: str, call: PluginCall, config: bytes) -> bytes:
        """Run a plugin and return its stdout.

        On cancellation the plugin and its descendants are killed first. Raises `FailedPrecondition` if there is no such
        plugin, `Unavailable` for temporary errors, and `PluginFailed`.
        """
        program = self.find(kind)
        if program is None:
            folders = ", ".join(map(str, self.folders))
            raise FailedPrecondition("missing", f"in {folders}", f"the CNI plugin {kind}")
        with span(f"cni {call.command} {kind}", _attributes(program, call)), self._leftovers.noted() as environment:
            process = await self._start(program, call, environment)
            try:
                out, err = await process.communicate(config)
            except BaseException:
                await end_program(process, group=True)
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


def _attributes(program: Path, call: PluginCall) -> dict[str, str]:
    attributes = {"process.executable.name": program.name, "process.executable.path": str(program)}
    return attributes | ({"sandbox.id": call.container_id} if call.container_id else {})
